"""A run as MLflow shows it: the settings, metrics over time, samples to look at.

Tracking is a mirror, never the record: everything it is told lies in the run's folder, too. A thread of its own talks
to the server, so a slow server slows nothing and a dead one stops nothing; what could not be sent is kept and tried
again, and what never could is said at the end. Where each attempt at a run is worth a line of its own, it is a child
of the run, and what is told goes to both.
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from vigc.platform.records import ConfigError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

    from vigc.platform.storage import Folder

RUN_FILE = "mlflow.json"  # in the run's folder: which MLflow run belongs to it
PARAM_LENGTH = 500
BATCH = 500  # metrics sent at once; MLflow takes 1000
RETRY_S, CLOSE_S = 10.0, 15.0
CLOSE_LOST_S = 3.0  # where nothing could be sent any more before the end
NOT_TRACKED = "none"  # in place of a URI
DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"  # beside each other, where nobody runs a server
_SQLITE = "sqlite:///"
FINISHED, FAILED, KILLED = "FINISHED", "FAILED", "KILLED"
DIGEST_LENGTH = 36
_TIMEOUT_S = 5  # of one request
_PARENT = "mlflow.parentRunId"
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
        attempt: what is particular to this attempt; None: attempts are not told apart.
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
        folder: Folder,
        params: Mapping[str, Any],
        attempt: Mapping[str, Any] | None = None,
        data: Sequence[DataUsed] = (),
        description: str = "",
        on_note: Callable[[str], None] = lambda message: None,
        parent: str | None = None,
    ) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # this thread tries again by itself
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(_TIMEOUT_S))
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # a folder does, too, where it is asked for
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # how a database is made is nobody's concern
        if not is_installed():
            raise ConfigError("MLflow is not installed; `pip install 'vigc[track]'` brings its client.")
        self._uri, self._experiment, self._name, self._folder = uri, experiment, name, folder
        self._params, self._data, self._on_note = flatten(params), data, on_note
        self._attempt = None if attempt is None else flatten(attempt)
        tags = {
            "mlflow.source.name": experiment,
            "mlflow.user": os.environ.get("USER"),
            "mlflow.note.content": description,
            _PARENT: parent,
        }
        self._tags = {name: value for name, value in tags.items() if value}
        self._inbox: queue.SimpleQueue[_Message | None] = queue.SimpleQueue()
        self._kept: list[_Message] = []
        self._run_id = self._attempt_id = ""
        self._client: MlflowClient | None = None
        self._silent = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
        self._thread.start()

    def run_id(self, wait_s: float) -> str | None:
        """The id of the MLflow run; None where the server has not given it in this time."""
        end = time.monotonic() + wait_s
        while not self._run_id and time.monotonic() < end:
            time.sleep(0.05)
        return self._run_id or None

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._inbox.put(_Metrics(step, int(time.time() * 1000), dict(values)))

    def table(self, name: str, columns: Mapping[str, list[Any]]) -> None:
        """A table among the run's artifacts, `name`.json; images are (height, width, 3) uint8 arrays."""
        self._inbox.put(_Table(name, dict(columns)))

    def file(self, path: Path) -> None:
        self._inbox.put(_File(path))

    def close(self, status: str = FINISHED) -> int:
        """Sends what is left, for at most CLOSE_S, and gives how many messages never arrived."""
        self._inbox.put(_End(status))
        self._inbox.put(None)
        self._closing.set()
        self._thread.join(timeout=CLOSE_S)
        return len(self._kept) + self._inbox.qsize()

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._thread.is_alive():
            self.close(FINISHED if error is None else FAILED)

    def _run(self) -> None:
        ended, end = False, float("inf")
        while not (ended and not self._kept) and time.monotonic() < end:
            ended = self._collect() or ended
            if self._closing.is_set() and end == float("inf"):
                end = time.monotonic() + (min(CLOSE_S, CLOSE_LOST_S) if self._silent else CLOSE_S)
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
            for run_id in filter(None, (self._run_id, self._attempt_id)):
                _deliver(client, run_id, self._kept[:number], run_id == self._attempt_id)
        except Exception as error:  # noqa: BLE001  whatever a server or a network can do must not stop the run
            if not self._silent:
                self._on_note(f"MLflow at {self._uri} does not take metrics ({_first_line(error)}); going on.")
            self._silent, self._client = True, None
            return False
        if self._silent:
            self._on_note(f"MLflow at {self._uri} takes metrics again.")
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
            self._remember()
            if self._uri.startswith("http"):
                experiment = client.get_run(self._run_id).info.experiment_id
                self._on_note(f"MLflow: {self._uri.rstrip('/')}/#/experiments/{experiment}/runs/{self._run_id}")
        client.update_run(self._run_id, status="RUNNING")
        if self._attempt is not None and not self._attempt_id:
            self._attempt_id = self._new_attempt(client, self._attempt)
            self._remember()
        self._client = client
        return client

    def _known_run(self, client: MlflowClient) -> str | None:
        """The run that this folder had before, where the server still has it."""
        from mlflow.exceptions import MlflowException

        known = self._remembered()
        if known.get("uri") != self._uri:
            return None
        try:
            return str(client.get_run(known["run_id"]).info.run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def _new_run(self, client: MlflowClient) -> str:
        if parent := self._tags.get(_PARENT):  # pages show a run below another where both are of one experiment
            experiment = client.get_run(parent).info.experiment_id
        else:
            found = client.get_experiment_by_name(self._experiment)
            experiment = found.experiment_id if found else self._new_experiment(client)
        return str(client.create_run(experiment, run_name=self._name).info.run_id)

    def _new_experiment(self, client: MlflowClient) -> str:
        place = None
        if self._uri.startswith(_SQLITE):  # else files would go to wherever this process was started
            database = Path(self._uri.removeprefix(_SQLITE)).absolute()
            place = (database.parent / ARTIFACTS / self._experiment).as_uri()
        return str(client.create_experiment(self._experiment, artifact_location=place, tags=_KIND))

    def _new_attempt(self, client: MlflowClient, params: Mapping[str, str]) -> str:
        """A child of the run. The one before was killed if it still counts as running: there is one at a time."""
        from mlflow.entities import Param

        last = self._remembered().get("attempt_id")
        run = client.get_run(self._run_id).info
        siblings = client.search_runs([run.experiment_id], f"tags.`{_PARENT}` = '{self._run_id}'", max_results=1000)
        if last and any(one.info.run_id == last and one.info.status == "RUNNING" for one in siblings):
            client.set_terminated(last, status=KILLED)
        tags = {**self._tags, _PARENT: self._run_id}
        made = client.create_run(run.experiment_id, tags=tags, run_name=f"{self._name}, attempt {len(siblings) + 1}")
        client.log_batch(made.info.run_id, params=[Param(key, value) for key, value in params.items()])
        return str(made.info.run_id)

    def _remembered(self) -> dict[str, str]:
        if RUN_FILE not in self._folder.names():
            return {}
        known: dict[str, str] = json.loads(self._folder.read(RUN_FILE))
        return known

    def _remember(self) -> None:
        known = {"uri": self._uri, "run_id": self._run_id}
        if self._attempt_id:
            known["attempt_id"] = self._attempt_id
        elif "attempt_id" in (before := self._remembered()) and before["run_id"] == self._run_id:
            known["attempt_id"] = before["attempt_id"]
        self._folder.write(RUN_FILE, json.dumps(known).encode())


def is_installed() -> bool:
    """Found out without importing it, which takes more than a second."""
    return find_spec("mlflow") is not None


def local_uri(folder: Path) -> str | None:
    """The URI of a database in this folder, where `mlflow ui` finds it; None: the whole of MLflow is not installed."""
    if not is_installed() or find_spec("sqlalchemy") is None:
        return None
    return f"{_SQLITE}{folder / DATABASE}"


class _Message:
    """Something to send to the server."""


class _Metrics(_Message):
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
    """How many go together: metrics in one batch, everything else alone."""
    number = size = 0
    for message in messages:
        if not isinstance(message, _Metrics) or size + len(message.values) > BATCH:
            break
        number, size = number + 1, size + len(message.values)
    return max(1, number)


def _deliver(client: MlflowClient, run_id: str, messages: list[_Message], is_attempt: bool) -> None:
    """What is large goes to the run alone, not to its attempts."""
    import mlflow
    import numpy as np
    from mlflow.entities import Metric

    first = messages[0]
    if isinstance(first, _Metrics):
        sent = [m for m in messages if isinstance(m, _Metrics)]
        metrics = [Metric(key, value, one.time_ms, one.step) for one in sent for key, value in one.values.items()]
        client.log_batch(run_id, metrics=metrics)
    elif isinstance(first, _Table) and not is_attempt:
        columns = {
            name: [mlflow.Image(value) if isinstance(value, np.ndarray) else value for value in values]
            for name, values in first.columns.items()
        }
        client.log_table(run_id, columns, f"{first.name}.json")
    elif isinstance(first, _File) and not is_attempt:
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
