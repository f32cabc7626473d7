"""A real MLflow server that keeps its runs in a real PostgreSQL, as `cluster/mlflow` sets one up.

PostgreSQL is Debian's package. It refuses to work for root, so there it runs as the user that the package made.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from ports import HOST, free_ports
from waiting import WAIT_S

USER = "postgres"


def why_not() -> str | None:
    """Why there can be none here."""
    return None if _programs() else "PostgreSQL is not installed"


class MlflowServer:
    """Started by `start`, ended by `kill`; what it took is there again after the next `start`."""

    def __init__(self, host: str = HOST, artifacts: str | None = None) -> None:
        """
        Args:
            host: the address that both listen at.
            artifacts: where reports go; None: a folder of the server's own.
        """
        self._folder = Path(tempfile.mkdtemp(prefix="vm"))  # short: PostgreSQL has a socket in it
        self._host, self._artifacts = host, artifacts or str(self._folder / "artifacts")
        self._port, self._database_port = free_ports(2)
        self._running: list[subprocess.Popen[bytes]] = []
        self.url = f"http://{host}:{self._port}"
        self._log = self._folder / "log"
        self._log.touch()
        data = self._folder / "database"
        data.mkdir()
        if os.geteuid() == 0:
            self._folder.chmod(0o755)
            shutil.chown(data, USER, USER)
        self._database("initdb", "-D", str(data), "-A", "trust", "-U", "mlflow", "--no-sync").wait(WAIT_S)

    def start(self) -> MlflowServer:
        """Returns when it answers; raises after WAIT_S."""
        data = str(self._folder / "database")
        options = ["-D", data, "-k", data, "-h", self._host, "-p", str(self._database_port)]
        self._running.append(self._database("postgres", *options))
        self._wait(lambda: self._database("pg_isready", "-q", "-h", data, "-p", str(self._database_port)).wait() == 0)
        store = f"postgresql+psycopg2://mlflow@/postgres?host={data}&port={self._database_port}"
        words = ["-m", "mlflow", "server", "--backend-store-uri", store, "--artifacts-destination", self._artifacts]
        words += ["--host", self._host, "--port", str(self._port), "--workers", "1"]
        words += ["--allowed-hosts", f"{self._host}:{self._port}"]
        self._running.append(self._start([sys.executable, *words], {"MLFLOW_DISABLE_TELEMETRY": "true"}))
        self._wait(self._answers)
        return self

    def kill(self) -> None:
        """SIGKILL for MLflow, as a lost machine would have it; the database ends like one whose clients are gone."""
        for process, number in zip(reversed(self._running), (signal.SIGKILL, signal.SIGINT), strict=False):
            os.killpg(process.pid, number)
            process.wait(30)
        self._running = []

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _database(self, program: str, *options: str) -> subprocess.Popen[bytes]:
        folder = _programs()
        assert folder is not None, why_not()
        who = ["--reuid", USER, "--regid", USER, "--clear-groups"] if os.geteuid() == 0 else []
        return self._start([*who, str(folder / program), *options], {})

    def _start(self, command: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
        with open(self._log, "ab") as log:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],  # should the tests be killed, it ends with them
                cwd="/",
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _wait(self, ready: Callable[[], bool]) -> None:
        until = time.monotonic() + WAIT_S
        while not ready():
            if time.monotonic() > until or any(process.poll() is not None for process in self._running):
                self.kill()
                raise RuntimeError(f"the MLflow server did not start:\n{self._log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.2)


def _programs() -> Path | None:
    """The folder of PostgreSQL's programs; the newest version's, where there are several."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    return found[-1].parent if found else None
