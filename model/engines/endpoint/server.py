"""A server of our own for a model in a folder: vLLM's in its environment, or transformers', on this machine's loopback.

It lives as long as whoever started it (`guardian.py` sees to that), answers to a key made for it where it can, and is
started again when it dies; what was under way is asked again by the client.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from vigc.model.engines.endpoint import guardian, transformers_server
from vigc.platform.records import ConfigError, ModelError

START_S = 1800.0  # large models take minutes to load, longer from a cold disk
MAX_DEATHS = 3  # in a row, before it has answered anything
TAIL_CHARS = 1500
# transformers' server takes a temperature and still decodes greedily, if the model's own configuration does.
TRANSFORMERS_SAMPLING = {"generation_config": '{"do_sample": true, "top_k": 0}'}


@dataclass(frozen=True, slots=True)
class ServerCommand:
    """How a server is started. `{port}` and `{key}` in the arguments are filled in at each start."""

    arguments: tuple[str, ...]
    health: str  # the path that answers 200 when it is ready
    has_key: bool
    environment: dict[str, str] = field(default_factory=dict)


def vllm_command(
    python: Path,
    model: str,
    *,
    name: str,
    num_gpus: int,
    dtype: str,
    num_threads: int | None = None,
    extra: Sequence[str] = (),
) -> ServerCommand:
    """vLLM's server. On a CPU it decodes eagerly: there is nothing to gain from compiling.

    Args:
        python: of the environment that vLLM is installed in.
        num_gpus: of which each holds a part of every layer (tensor parallel); 0: on the CPU.
        num_threads: None: all cores.
        extra: arguments of `vllm serve` that go through as they are.
    """
    arguments = [str(python), "-P", "-m", "vllm.entrypoints.openai.api_server"]
    arguments += ["--model", model, "--served-model-name", name]
    arguments += ["--host", "127.0.0.1", "--port", "{port}", "--api-key", "{key}", "--dtype", dtype]
    arguments += ["--tensor-parallel-size", str(num_gpus)] if num_gpus > 1 else []
    arguments += [] if num_gpus else ["--enforce-eager"]
    environment = _threads(num_threads) | {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", **_offline(model)}
    if not num_gpus:
        environment["VLLM_CPU_KVCACHE_SPACE"] = os.environ.get("VLLM_CPU_KVCACHE_SPACE", "2")
        environment["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # actors of one machine would all sit on the first cores
    return ServerCommand((*arguments, *extra), "/health", has_key=True, environment=environment)


def transformers_command(
    model: str, *, device: str, dtype: str, num_threads: int | None = None, extra: Sequence[str] = ()
) -> ServerCommand:
    """transformers' server, in this environment. It knows no keys, and the model by its path alone."""
    arguments = [sys.executable, "-P", transformers_server.__file__, model]
    arguments += ["--host", "127.0.0.1", "--port", "{port}", "--device", device, "--dtype", dtype]
    environment = _threads(num_threads) | {"HF_HUB_DISABLE_TELEMETRY": "1", **_offline(model)}
    return ServerCommand((*arguments, *extra), "/health", has_key=False, environment=environment)


def _threads(number: int | None) -> dict[str, str]:
    """Servers on the same cores that wait for their threads without giving the core away mostly wait for each other."""
    return {"OMP_WAIT_POLICY": "PASSIVE"} | ({} if number is None else {"OMP_NUM_THREADS": str(number)})


def _offline(model: str) -> dict[str, str]:
    return {"HF_HUB_OFFLINE": "1"} if Path(model).is_dir() else {}


class Server:
    """One server and its successors. `start` returns when it answers; `keep` starts it anew when it has died."""

    def __init__(self, command: ServerCommand) -> None:
        self._command = command
        self.key = secrets.token_hex(16) if command.has_key else None
        self.port = _free_port()  # kept by its successors, so that the client's address stays
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile(prefix="vigc-server-")  # noqa: SIM115  without a name, so none is left
        self._num_deaths = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def pid(self) -> int | None:
        """Of the guardian."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Raises ModelError: it ended before it was ready, or was not ready in time; with its last words."""
        with self._lock:
            while True:
                self._launch()
                if self._wait_until_ready():
                    return
                if not self._lost_its_port():
                    raise ModelError(f"The model's server did not start. It said last:\n{self._last_words()}")
                self.port = _free_port()

    def keep(self) -> bool:
        """Whether it had died and was started anew.

        Raises:
            ModelError: it died several times without an answer in between.
        """
        if self._process is None or self._process.poll() is None:
            return False
        _end_group(self._process.pid)  # where the guardian was killed, too
        self._num_deaths += 1
        if self._num_deaths >= MAX_DEATHS:
            raise ModelError(
                f"The model's server died {self._num_deaths} times in a row. It said last:\n{self._last_words()}"
            )
        self.start()
        return True

    def answered(self) -> None:
        self._num_deaths = 0

    def close(self) -> None:
        """Ends it, and all that it started."""
        with self._lock:
            process, self._process = self._process, None
            if process is not None:
                assert process.stdin is not None
                process.stdin.close()
                process.wait()
                _end_group(process.pid)
            self._log.close()

    def _launch(self) -> None:
        filled = [one.replace("{port}", str(self.port)) for one in self._command.arguments]
        filled = [one.replace("{key}", self.key or "") for one in filled]
        self._log.seek(0)
        self._log.truncate()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", guardian.__file__, *filled],
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **self._command.environment, "PYTHONPATH": ""},
            )
        except OSError as error:
            raise ConfigError(f"{filled[0]}: the model's server cannot be started ({error}).") from error

    def _wait_until_ready(self) -> bool:
        assert self._process is not None
        end = time.monotonic() + START_S
        address = f"http://127.0.0.1:{self.port}{self._command.health}"
        while time.monotonic() < end and self._process.poll() is None:
            try:
                with urllib.request.urlopen(address, timeout=5) as answer:
                    if answer.status == 200:
                        return True
            except OSError:
                time.sleep(0.2)
        return False

    def _lost_its_port(self) -> bool:
        """Another process was quicker to take the port that was free."""
        return self._process is not None and self._process.poll() is not None and "in use" in self._last_words()

    def _last_words(self) -> str:
        log = self._log.fileno()
        start = max(0, os.fstat(log).st_size - 4 * TAIL_CHARS)
        text = os.pread(log, 4 * TAIL_CHARS, start).decode(errors="replace").strip()
        return text[-TAIL_CHARS:] or "(nothing)"


def _end_group(leader: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
