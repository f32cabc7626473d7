"""Training runs that are killed in every way end like one that was left alone."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import processes
import pytest
from training_runs import command, kill_a_worker, losses, make_data, wait_for_update
from waiting import WAIT_S

OPTIONS = ("num_updates=24", "checkpoint_every=6")
pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def calm(data: Path, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """What an undisturbed run ends with, by strategy."""
    done: dict[str, Path] = {}

    def run(parallel: str) -> Path:
        if parallel not in done:
            out = tmp_path_factory.mktemp("calm") / parallel
            finish(data, out, parallel)
            done[parallel] = out
        return done[parallel]

    return run


def start(data: Path, out: Path, parallel: str, workers: int = 2) -> subprocess.Popen[str]:
    return spawn(command(data, out, *OPTIONS, f"parallel={parallel}", workers=workers))


def spawn(words: list[str], **environment: str) -> subprocess.Popen[str]:
    return processes.start(*words, env={**os.environ, **environment})


def finish(data: Path, out: Path, parallel: str, workers: int = 2, expected: int = 0) -> str:
    driver = start(data, out, parallel, workers)
    said = "".join(driver.communicate(timeout=WAIT_S))
    assert driver.returncode == expected, said
    return said


def require_same(one: Path, other: Path) -> None:
    assert losses(one)[24] == losses(other)[24]
    weights = [out / "weights" / "weights.safetensors" for out in (one, other)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize("parallel", ["ddp", "zero2", "zero3"])
def test_a_worker_is_killed(data, tmp_path, calm, parallel):  # type: ignore[no-untyped-def]
    driver = start(data, tmp_path / "run", parallel)
    kill_a_worker(driver, tmp_path / "run", after_update=9)
    said = driver.communicate(timeout=WAIT_S)
    assert driver.returncode == 0, said
    require_same(calm(parallel), tmp_path / "run")


@pytest.mark.parametrize("parallel", ["ddp", "zero2", "zero3"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_the_driver_is_ended_and_the_command_given_again(data, tmp_path, calm, parallel, how):  # type: ignore[no-untyped-def]
    driver = start(data, tmp_path / "run", parallel)
    wait_for_update(driver, tmp_path / "run", 9)
    driver.send_signal(how)
    out, err = driver.communicate(timeout=WAIT_S)
    assert driver.returncode != 0
    if how is not signal.SIGKILL:
        assert "The same command goes on from the last checkpoint" in err
    assert "Traceback" not in out + err
    assert "Weights of update 24" in finish(data, tmp_path / "run", parallel)
    require_same(calm(parallel), tmp_path / "run")


def test_with_another_number_of_workers_the_same_samples_make_each_update(data, tmp_path, calm):  # type: ignore[no-untyped-def]
    driver = start(data, tmp_path / "run", "ddp", workers=2)
    wait_for_update(driver, tmp_path / "run", 9)
    driver.send_signal(signal.SIGKILL)
    driver.communicate(timeout=WAIT_S)
    finish(data, tmp_path / "run", "ddp", workers=1)
    assert losses(tmp_path / "run")[24] == pytest.approx(losses(calm("ddp"))[24], abs=1e-4)


def test_zero_state_is_not_read_by_another_number_of_workers(data, tmp_path):  # type: ignore[no-untyped-def]
    driver = start(data, tmp_path / "run", "zero2", workers=2)
    wait_for_update(driver, tmp_path / "run", 9)
    driver.send_signal(signal.SIGKILL)
    driver.communicate(timeout=WAIT_S)
    said = finish(data, tmp_path / "run", "zero2", workers=1, expected=2)
    assert "Run with --workers 2" in said


def test_a_run_goes_on_with_fewer_workers_where_a_node_is_lost(data, tmp_path, calm):  # type: ignore[no-untyped-def]
    """Three CPUs a node, two of them for a worker: two nodes hold two workers, one node holds one."""
    with two_nodes() as (address, kill_other):
        words = command(data, tmp_path / "run", *OPTIONS, "parallel=ddp", workers="1-2")
        driver = spawn([*words, "--cpus-per-worker", "2"], RAY_ADDRESS=address)
        wait_for_update(driver, tmp_path / "run", 9)
        kill_other()
        said = "".join(driver.communicate(timeout=WAIT_S))
    assert driver.returncode == 0, said
    assert losses(tmp_path / "run")[24] == pytest.approx(losses(calm("ddp"))[24], abs=1e-4)
    assert "1 of 2 workers train from update" in said


@contextmanager
def two_nodes() -> Iterator[tuple[str, Callable[[], None]]]:
    """A cluster on this machine: its address, and how to kill the node that is not its head."""
    from ray.cluster_utils import Cluster

    of_each = {"num_cpus": 3, "include_dashboard": False, "object_store_memory": 2**28}
    cluster = Cluster(initialize_head=True, head_node_args=of_each)
    try:
        other = cluster.add_node(num_cpus=3, object_store_memory=2**28)
        cluster.wait_for_nodes()
        yield cluster.address, lambda: cluster.remove_node(other, allow_graceful=False)
    finally:
        cluster.shutdown()
