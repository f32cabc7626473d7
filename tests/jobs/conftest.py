"""The command line: its exit code and what it printed."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import processes
import pytest
from waiting import WAIT_S

from vigc.jobs.cli import main
from vigc.jobs.scenes import make_scenes

VIGC = (sys.executable, "-m", "vigc.jobs.cli")


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


Vigc = Callable[..., Result]


@pytest.fixture(scope="session")
def vigc_here() -> Vigc:
    """The same in this process, for verbs that need no Ray: the answer comes in milliseconds."""

    def run(*arguments: object, cwd: Path | None = None) -> Result:
        out, err, before = io.StringIO(), io.StringIO(), sys.argv
        sys.argv = ["vigc", *map(str, arguments)]
        try:
            with (
                redirect_stdout(out),
                redirect_stderr(err),
                chdir(cwd or Path.cwd()),
                pytest.raises(SystemExit) as stop,
            ):
                main()
        finally:
            sys.argv = before
        return Result(int(stop.value.code or 0), out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def vigc_joined(vigc_here: Vigc, shared_ray: None) -> Vigc:
    """In this process, on the Ray of this session: for whoever looks at what is made, and not at how a run starts."""
    return vigc_here


@pytest.fixture(scope="session")
def vigc(ray_folder: None) -> Vigc:
    """A process of its own, as a user starts it."""

    def run(*arguments: object, cwd: Path | None = None, timeout: float = WAIT_S) -> Result:
        done = subprocess.run(
            [*VIGC, *map(str, arguments)],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def vigc_started(ray_folder: None) -> Callable[..., subprocess.Popen[str]]:
    """A process that is still running."""

    def start(*arguments: object) -> subprocess.Popen[str]:
        return processes.start(*VIGC, *arguments)

    return start


@pytest.fixture(scope="session")
def scenes_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "scenes"
    make_scenes(folder, num=12, seed=7)
    return folder
