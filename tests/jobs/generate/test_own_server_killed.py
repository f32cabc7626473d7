"""Whatever is killed while a server of our own answers, the data is that of an undisturbed run, and nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import processes
import psutil
import pytest
from tiny_chat_models import write_tiny_idefics
from waiting import WAIT_S, wait_until

from vigc.model.engines.endpoint import guardian, transformers_server
from vigc.model.scenes import Split, make_scene, render
from vigc.platform.dataset.digest import digest
from vigc.platform.dataset.verify import verify

pytestmark = pytest.mark.slow
NUM = 10


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(NUM):
        render(make_scene(Split.HELD_OUT, 1, number), 112).save(folder / f"{number:02}.jpg", quality=90)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_idefics(tmp_path_factory.mktemp("models") / "idefics")


def words(photographs: Path, model: Path, out: Path) -> tuple[object, ...]:
    asked = ("--model", model, "--engine", "transformers", "--kinds", "conversation", "--set", "max_tokens=40")
    return ("generate", photographs, "--out", out, *asked)


@pytest.fixture(scope="module")
def undisturbed(photographs: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of a run that nothing happened to."""
    out = tmp_path_factory.mktemp("undisturbed") / "data"
    finish(run(photographs, model, out))
    return digest(out)


def run(photographs: Path, model: Path, out: Path) -> subprocess.Popen[str]:
    return processes.start(sys.executable, "-m", "vigc.jobs.cli", *words(photographs, model, out))


def finish(driver: subprocess.Popen[str]) -> str:
    """What it said."""
    said, complaints = driver.communicate(timeout=WAIT_S)
    assert driver.returncode == 0, said + complaints
    return said


def running(script: Path | str, model: Path) -> Iterator[psutil.Process]:
    """Processes of a script that serve the model."""
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        is_guardian = guardian.__file__ in line
        if str(model) in line and str(script) in line and is_guardian == (script == guardian.__file__):
            yield process


def num_committed(out: Path) -> int:
    """Blocks of one image each, before they are merged in the end."""
    return len(list(out.glob("passes/001/rows/*/*.parquet")))


@pytest.mark.parametrize("victim", ["driver", "actor", "server"])
def test_the_rows_are_those_of_an_undisturbed_run(
    victim: str, photographs: Path, model: Path, undisturbed: str, tmp_path: Path
) -> None:
    out = tmp_path / "data"
    driver = run(photographs, model, out)
    wait_until(lambda: num_committed(out), process=driver)
    (server,) = running(transformers_server.__file__, model)
    (keeper,) = running(guardian.__file__, model)
    killed = {"driver": driver.pid, "actor": keeper.ppid(), "server": server.pid}
    os.kill(killed[victim], signal.SIGKILL)
    if victim == "driver":
        driver.wait()
        wait_until(lambda: not any(running(transformers_server.__file__, model)))
        num_done = num_committed(out)
        driver = run(photographs, model, out)
        assert f"continued, {num_done} of {NUM} images done" in finish(driver)
    else:
        finish(driver)
    wait_until(lambda: not any(running(transformers_server.__file__, model)))
    assert not any(running(guardian.__file__, model))
    found = verify(out)
    assert found.problems == []
    assert (found.num_requested, found.num_rows) == (NUM, NUM)
    assert digest(out) == undisturbed
