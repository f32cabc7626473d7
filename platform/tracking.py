"""A run as MLflow shows it: what was asked, figures over time, samples to look at.

Tracking is a mirror, never the record: everything it is told lies in the run's folder, too. A thread of its own talks
to the server, so a slow server slows nothing and a dead one stops nothing; what could not be sent is kept and tried
again, and what never could is said at the end.
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from vigc.platform.files import written_whole
from vigc.platform.records import ConfigError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

RUN_FILE = "mlflow.json"  # in the run's folder: which MLflow run belongs to it
PARAM_LENGTH = 500
BATCH = 500  # figures sent at once; MLflow takes 1000
RETRY_S, CLOSE_S = 10.0, 15.0
DIGEST_LENGTH = 36
_TIMEOUT_S = 5  # of one request
_KIND = {"mlflow.experimentKind": "custom_model_development"}  # so that MLflow's pages show curves first


@dataclass(frozen=True)
class DataUsed:
    """A data set that a run reads, as MLflow lists it."""

    name: str
    digest: str  # of its content; MLflow shows DIGEST_LENGTH characters
    source: tuple[str, ...]  # where it came from, a line for each part
    context: str  # "training" or "validation"


class Tracking:
    """One MLflow run, taken up again where the folder knows it.

    Args:
        uri: of the tracking server, as for mlflow.set_tracking_uri.
        folder: the run's own; remembers the MLflow run in `mlflow.json`.
        description: shown with the run, in Markdown.
        parent: the id of the run that this one is shown below.
        on_note: told where the run can be seen, once when the server cannot be reached, and once when it can again.
    Raises:
        ConfigError: mlflow is not installed.
    """

    def __init__(
        self,
        uri: str,
        *,
        experiment: str,
        name: str,
        folder: Path,
        params: Mapping[str, Any],
        data: Sequence[DataUsed] = (),
        description: str = "",
        on_note: Callable[[str], None] = lambda message: None,
        parent: str | None = None,
    ) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # this thread tries again by itself
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(_TIMEOUT_S))
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        try:
            import mlflow  # noqa: F401  found out now, not in the thread
        except ImportError as error:
            raise ConfigError("MLflow is not installed; `pip install 'vigc[train]'` brings its client.") from error
        self._uri, self._experiment, self._name, self._folder = uri, experiment, name, folder
        self._params, self._data, self._on_note = flatten(params), data, on_note
        tags = {
            "mlflow.source.name": experiment,
            "mlflow.user": os.environ.get("USER"),
            "mlflow.note.content": description,
            "mlflow.parentRunId": parent,
        }
        self._tags = {name: value for name, value in tags.items() if value}
        self._inbox: queue.SimpleQueue[_Message | None] = queue.SimpleQueue()
        self._kept: list[_Message] = []
        self._run_id = ""
        self._client: MlflowClient | None = None
        self._silent = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
        self._thread.start()

    def run_id(self, wait_s: float) -> str | None:
        """Of the MLflow run, once the server has given it; None: it did not in this time."""
        end = time.monotonic() + wait_s
        while not self._run_id and time.monotonic() < end:
            time.sleep(0.05)
        return self._run_id or None

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        self._inbox.put(_Figures(step, int(time.time() * 1000), dict(values)))

    def table(self, name: str, columns: Mapping[str, list[Any]]) -> None:
        """A table among the run's artifacts, `name`.json; pictures are (height, width, 3) uint8 arrays."""
        self._inbox.put(_Table(name, dict(columns)))

    def file(self, path: Path) -> None:
        self._inbox.put(_File(path))

    def close(self, *, failed: bool = False) -> int:
        """Sends what is left, for at most CLOSE_S, and gives how many messages never arrived."""
        self._inbox.put(_End("FAILED" if failed else "FINISHED"))
        self._inbox.put(None)
        self._closing.set()
        self._thread.join(timeout=CLOSE_S)
        return len(self._kept) + self._inbox.qsize()

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._thread.is_alive():
            self.close(failed=error is not None)

    def _run(self) -> None:
        ended, end = False, float("inf")
        while not (ended and not self._kept) and time.monotonic() < end:
            ended = self._collect() or ended
            if self._closing.is_set() and end == float("inf"):
                end = time.monotonic() + CLOSE_S
            if self._kept and not self._send():
                self._closing.wait(RETRY_S) if not self._closing.is_set() else time.sleep(0.5)

    def _collect(self) -> bool:
        """Takes what has come, waiting for something if nothing is kept; True: nothing more will come."""
        wait = 0.0 if self._kept else 1.0
        while True:
            try:
                message = self._inbox.get(timeout=wait) if wait else self._inbox.get_nowait()
            except queue.Empty:
                return False
            if message is None:
                return True
            self._kept.append(message)
            wait = 0.0

    def _send(self) -> bool:
        """Sends the oldest messages; False: the server did not take them."""
        number = _run_length(self._kept)
        try:
            client = self._connected()
            _deliver(client, self._run_id, self._kept[:number])
        except Exception as error:  # noqa: BLE001  whatever a server or a network can do must not stop the run
            if not self._silent:
                self._on_note(f"MLflow at {self._uri} does not take figures ({_first_line(error)}); going on.")
            self._silent, self._client = True, None
            return False
        if self._silent:
            self._on_note(f"MLflow at {self._uri} takes figures again.")
            self._silent = False
        del self._kept[:number]
        return True

    def _connected(self) -> MlflowClient:
        if self._client is not None:
            return self._client
        from mlflow import MlflowClient
        from mlflow.entities import Param, RunTag

        client = MlflowClient(self._uri)
        if not self._run_id:
            self._run_id = self._known_run(client) or self._new_run(client)
            known = client.get_run(self._run_id).data.params
            params = [Param(key, value) for key, value in self._params.items() if key not in known]
            client.log_batch(self._run_id, params=params, tags=[RunTag(*tag) for tag in self._tags.items()])
            client.log_inputs(self._run_id, datasets=[_input(data) for data in self._data])
            with written_whole(self._folder / RUN_FILE) as stream:
                json.dump({"uri": self._uri, "run_id": self._run_id}, stream)
            if self._uri.startswith("http"):
                experiment = client.get_run(self._run_id).info.experiment_id
                self._on_note(f"MLflow: {self._uri.rstrip('/')}/#/experiments/{experiment}/runs/{self._run_id}")
        client.update_run(self._run_id, status="RUNNING")
        self._client = client
        return client

    def _known_run(self, client: MlflowClient) -> str | None:
        """The run that this folder had before, where the server still has it."""
        from mlflow.exceptions import RestException

        file = self._folder / RUN_FILE
        if not file.exists():
            return None
        known = json.loads(file.read_text(encoding="utf-8"))
        if known["uri"] != self._uri:
            return None
        try:
            return str(client.get_run(known["run_id"]).info.run_id)
        except RestException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def _new_run(self, client: MlflowClient) -> str:
        found = client.get_experiment_by_name(self._experiment)
        experiment = found.experiment_id if found else client.create_experiment(self._experiment, tags=_KIND)
        return str(client.create_run(experiment, run_name=self._name).info.run_id)


class _Message:
    """Something to be told to the server."""


class _Figures(_Message):
    def __init__(self, step: int, time_ms: int, values: dict[str, float]) -> None:
        self.step, self.time_ms, self.values = step, time_ms, values


class _Table(_Message):
    def __init__(self, name: str, columns: dict[str, list[Any]]) -> None:
        self.name, self.columns = name, columns


class _File(_Message):
    def __init__(self, path: Path) -> None:
        self.path = path


class _End(_Message):
    def __init__(self, status: str) -> None:
        self.status = status


def _run_length(messages: list[_Message]) -> int:
    """How many go together: figures in one batch, everything else alone."""
    number = size = 0
    for message in messages:
        if not isinstance(message, _Figures) or size + len(message.values) > BATCH:
            break
        number, size = number + 1, size + len(message.values)
    return max(1, number)


def _deliver(client: MlflowClient, run_id: str, messages: list[_Message]) -> None:
    import mlflow
    import numpy as np
    from mlflow.entities import Metric

    first = messages[0]
    if isinstance(first, _Figures):
        figures = [m for m in messages if isinstance(m, _Figures)]
        metrics = [Metric(key, value, f.time_ms, f.step) for f in figures for key, value in f.values.items()]
        client.log_batch(run_id, metrics=metrics)
    elif isinstance(first, _Table):
        columns = {
            name: [mlflow.Image(value) if isinstance(value, np.ndarray) else value for value in values]
            for name, values in first.columns.items()
        }
        client.log_table(run_id, columns, f"{first.name}.json")
    elif isinstance(first, _File):
        client.log_artifact(run_id, str(first.path))
    elif isinstance(first, _End):
        client.set_terminated(run_id, status=first.status)


def _input(data: DataUsed) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"parts": data.source}, ensure_ascii=False)
    dataset = Dataset(data.name, data.digest[:DIGEST_LENGTH], source_type="vigc", source=source)
    return DatasetInput(dataset, tags=[InputTag("mlflow.data.context", data.context)])


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as MLflow's parameters: dotted names, texts of at most PARAM_LENGTH characters."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)[:PARAM_LENGTH]
    return flat


def _first_line(error: BaseException) -> str:
    return next((line.strip(" .") for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
