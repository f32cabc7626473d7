"""A run and the cluster it is on: too small a one is refused, a stalled one is left, and room remains beside actors."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import REQUEST, draw
from fake_workers import FakeWorker
from waiting import WAIT_S

from vigc.platform.dataset.store import Store
from vigc.platform.dataset.verify import verify
from vigc.platform.pipeline.capacity import Need, Size, fitted_actors
from vigc.platform.pipeline.run import Graph, RunError, run
from vigc.platform.sources import open_source

NUM_IMAGES = 12
RUN_ON_FEW_CPUS = Path(__file__).parents[2] / "helpers" / "run_on_few_cpus.py"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster-images")
    for seed in range(NUM_IMAGES):
        draw(folder / f"{seed:02}.png", seed)
    return folder


def test_what_a_run_needs_counts_actors_on_cpus_but_not_those_on_gpus():
    assert [Need(actors, 0).cpus for actors in (1, 2, 8)] == [2, 3, 6]
    assert Need(8, 1).cpus == 2
    assert Need(8, 1).fits(Size(cpus=2, gpus=8, largest_node=2, num_nodes=1))
    assert not Need(8, 1).fits(Size(cpus=96, gpus=7, largest_node=96, num_nodes=1))
    assert Need(3, 1 / 3).fits(Size(cpus=2, gpus=0.9999999, largest_node=2, num_nodes=1))  # rounding is no lack


@pytest.mark.parametrize(
    ("size", "fitted"),
    [
        (Size(4, 0, 4, 1), (1, 2)),
        (Size(16, 0, 16, 1), (1, 26)),
        (Size(16, 0, 8, 2), (1, 10)),  # the other node alone holds ten and has three CPUs left
        (Size(6, 0, 3, 2), (1, 1)),
        (Size(2, 0, 2, 1), (1, 1)),
    ],
)
def test_actors_on_cpus_leave_room_even_when_the_largest_node_dies(size, fitted):
    assert fitted_actors(1, 100, 0, size) == fitted
    left = size.cpus - (size.largest_node if size.num_nodes > 1 else 0)
    assert left >= Need(fitted[1], 0).cpus


def test_actors_on_gpus_are_as_many_as_gpus_hold():
    assert fitted_actors(4, 100, 1, Size(8, 2, 8, 1)) == (2, 2)
    assert fitted_actors(1, 100, 0.25, Size(8, 2, 4, 2)) == (1, 8)


def small_ray(num_cpus, actors, images, out):
    return subprocess.run(
        [sys.executable, str(RUN_ON_FEW_CPUS), str(num_cpus), str(actors), str(images), str(out)],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )


@pytest.mark.slow
def test_the_fewest_cpus_that_are_let_through_suffice_to_begin_and_to_go_on(ray_folder, images, tmp_path):
    """It stops half way and goes on, on as many CPUs as the check asks for; with one fewer, it says the number."""
    done = small_ray(2, 1, images, tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-3:] == [
        "stopped with some done",
        "went on to the end",
        "ConfigError: The cluster has 2 CPUs; a run with 2 actors needs 3 CPUs at the least. "
        "Add nodes until there are 3 CPUs, or lower --actors.",
    ]
    assert verify(tmp_path / "out").problems == []


class Release(logging.Handler):
    """Frees what is in the way once the run has said that it starts again."""

    def __init__(self, free):
        super().__init__()
        self.free, self.said = free, []

    def emit(self, record):
        self.said.append(record.getMessage())
        if "Starting again" in self.said[-1]:
            self.free()


@pytest.fixture
def hog(shared_ray):
    """An actor of another job, as it were, that leaves 0.7 CPUs: the run's own actor fits, decoding does not."""
    import ray

    @ray.remote
    class Hog:
        def ready(self):
            return True

    actor = Hog.options(num_cpus=ray.cluster_resources()["CPU"] - 0.7).remote()
    ray.get(actor.ready.remote())
    yield lambda: ray.kill(actor)
    ray.kill(actor)


@pytest.mark.slow
def test_a_run_that_stalls_starts_again_from_what_is_committed_and_says_so(hog, images, tmp_path):
    release = Release(hog)
    logger = logging.getLogger("vigc.platform.pipeline.run")
    logger.addHandler(release)
    try:
        pass_ = Store(tmp_path / "out").create_pass(REQUEST, open_source(str(images)))
        run(pass_, Graph(worker=FakeWorker, image_size=16, num_slots=4), stall_timeout_s=6)
    finally:
        logger.removeHandler(release)
    said = next(line for line in release.said if "Starting again" in line)
    assert said.startswith("No process was at work for 6 s on a cluster with ")
    assert said.endswith(f"Starting again from what is committed: 0 of {NUM_IMAGES} images.")
    found = verify(tmp_path / "out")
    assert (found.problems, found.num_rows) == ([], NUM_IMAGES)


@pytest.mark.soak
def test_a_run_that_stalls_again_and_again_ends_with_an_error(hog, images, tmp_path):
    pass_ = Store(tmp_path / "out").create_pass(REQUEST, open_source(str(images)))
    with pytest.raises(RunError, match=r"No process was at work for 2 s on a .*, again and again\. 0 of 12"):
        run(pass_, Graph(worker=FakeWorker, image_size=16, num_slots=4), stall_timeout_s=2)


@pytest.mark.slow
def test_slow_work_is_not_taken_for_a_standstill(shared_ray, images, tmp_path, monkeypatch, caplog):
    """A block takes twice as long as nobody may be at work."""
    pass_ = Store(tmp_path / "out").create_pass(REQUEST, open_source(str(images)), rows_per_block=NUM_IMAGES)
    graph = Graph(worker=FakeWorker, worker_args=(16.0,), image_size=16, num_slots=12)
    run(pass_, graph, stall_timeout_s=8)
    assert "Starting again" not in caplog.text
    assert verify(tmp_path / "out").problems == []
