"""Our end of the process that vLLM runs in: its start, what is said to it and heard from it, and its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from vigc.model.engines.vllm import process as vllm_process
from vigc.platform.records import ConfigError, ModelError

_NOT_OURS = {"PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP"}  # they name our packages, not those of the other environment
_SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process, which is easily ended
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # whose logits processors are others
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # actors of one machine would all sit on the first cores
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYTHONUNBUFFERED": "1",
}
_LAST_LINES, _LAST_BYTES = 8, 4096  # of the log, in an error
_PATIENCE_S = 10  # for a process that was told to end


class Connection:
    """Starts vLLM and waits until it is ready.

    Args:
        python: of the environment that vLLM is installed in.
        settings: of the engine, see `vllm_process`.
        num_threads: of a CPU.
    Raises:
        ConfigError: there is no vLLM in that environment.
        ModelError: it did not start; with what it said last.
    """

    def __init__(self, python: Path, settings: dict[str, Any], num_threads: int) -> None:
        self._log = tempfile.TemporaryFile(prefix="vigc-vllm-")  # noqa: SIM115 - closed with the connection
        self._socket, theirs = socket.socketpair()
        env = {name: value for name, value in os.environ.items() if name not in _NOT_OURS}
        descriptor = str(theirs.fileno())
        with theirs:
            self._process = subprocess.Popen(
                # -P: beside the script lies our vllm.py, which is not what it wants to import.
                [str(python), "-P", vllm_process.__file__, descriptor, json.dumps(settings)],
                env=env | _SETTINGS | {"OMP_NUM_THREADS": str(num_threads)},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                start_new_session=True,  # Ctrl-C is ours to answer
            )
        try:
            first = vllm_process.receive(self._socket)
            if first is None or "ready" not in first[0]:
                self._refuse(python, first[0] if first else {})
        except BaseException:
            self.close()
            raise

    def _refuse(self, python: Path, message: dict[str, Any]) -> None:
        if message.get("missing") == "vllm":
            raise ConfigError(
                f"{python}: there is no vLLM in its environment. Run `make vllm`, or name another Python."
            )
        raise ModelError(f"vLLM did not start. {self.last_words(message.get('failed'))}")

    @property
    def pid(self) -> int:
        return self._process.pid

    def listen(self, on_message: Callable[[dict[str, Any]], None]) -> None:
        """Has a thread call `on_message` with all that comes; the last one is `{"lost": why}`."""
        threading.Thread(target=self._hear, args=(on_message,), name="vllm-listener", daemon=True).start()

    def send(self, message: dict[str, Any], tail: bytes = b"") -> None:
        """To a process that is gone, in vain: the listener hears of that."""
        with suppress(OSError):
            vllm_process.send(self._socket, message, tail)

    def close(self) -> None:
        """Ends the process."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._socket.close()
        self._log.close()

    def _hear(self, on_message: Callable[[dict[str, Any]], None]) -> None:
        said: str | None = None
        while (received := vllm_process.receive(self._socket)) is not None:
            message, _ = received
            if "failed" in message:
                said = str(message["failed"])
            else:
                on_message(message)
        on_message({"lost": self.last_words(said)})

    def last_words(self, said: str | None) -> str:
        """How the process ended, and the end of its log where it did not say why itself."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE_S)
        code = self._process.poll()
        how = "is still there" if code is None else f"ended with exit code {code}"
        if code is not None and code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        if said is None and not self._log.closed:
            log = self._log.fileno()
            start = max(0, os.fstat(log).st_size - _LAST_BYTES)
            lines = os.pread(log, _LAST_BYTES, start).decode(errors="replace").splitlines()
            said = " | ".join(line.strip() for line in lines[-_LAST_LINES:] if line.strip())
        return f"Its process {how}: {said}" if said else f"Its process {how}."
