"""What can happen to a run: each ends with the data of an undisturbed run, by itself or by the same command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import processes
import psutil
import pytest
from datasets import REQUEST, draw
from fake_workers import FakeWorker
from waiting import WAIT_S, wait_until

from vigc.platform.dataset.digest import digest
from vigc.platform.dataset.store import Store
from vigc.platform.dataset.verify import verify
from vigc.platform.pipeline.run import Graph, run
from vigc.platform.sources import open_source
from vigc.platform.storage import open_folder

NUM_IMAGES = 40
GRAPH = Graph(worker=FakeWorker, image_size=16, num_slots=4)
DELAY_S = 0.3  # for each image; the blocks of two are at work four at a time
DRIVER = Path(__file__).parents[2] / "helpers" / "driver_process.py"
# Each fault runs in one place in CI and, where the place could matter, in the other one with the soak tests.
in_soak = pytest.mark.soak
disk_later, s3_later, gcs_later = (pytest.param(place, marks=in_soak) for place in ("disk", "s3", "gcs"))
on_disk_first = pytest.mark.parametrize("storage", ["disk", s3_later])
on_s3_first = pytest.mark.parametrize("storage", ["s3", disk_later, gcs_later])


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fault-images")
    for seed in range(NUM_IMAGES):
        draw(folder / f"{seed:02}.png", seed)
    return folder


@pytest.fixture(scope="session")
def undisturbed(shared_ray, images, tmp_path_factory):
    """The digest of a run that nothing happened to."""
    out = tmp_path_factory.mktemp("fault-undisturbed") / "out"
    pass_ = Store(out).create_pass(REQUEST, open_source(str(images)))
    run(pass_, GRAPH)
    return digest(out)


@pytest.fixture
def place(storage, request, tmp_path, images):
    """Images and OUT, both on a disk, in S3 or in Google Cloud Storage."""
    if storage == "disk":
        return str(images), str(tmp_path / "out")
    address = request.getfixturevalue(f"{storage}_place")
    stored = open_folder(f"{address}/images")
    for path in images.iterdir():
        stored.write(path.name, path.read_bytes())
    return f"{address}/images", f"{address}/out"


def start(images, out, *more, delay_s=DELAY_S):
    return processes.start(sys.executable, DRIVER, images, out, delay_s, *more)


def wait_for(driver, number):
    """Returns when the driver has reported so many committed rows."""
    for line in driver.stdout:
        word, count = line.split(maxsplit=1)
        assert word == "done", line
        if int(count) >= number:
            return
    raise AssertionError(driver.stderr.read())


def finish(driver):
    """Its last line, when it has ended well."""
    said, complaints = driver.communicate(timeout=WAIT_S)
    assert driver.returncode == 0, said + complaints
    return said.splitlines()[-1]


def again(images, out):
    """The same request again, until its end: from this process on a disk, else where the place is reached from."""
    if "://" in out:
        finish(start(images, out, delay_s=0))
    else:
        run(Store(out).find_pass(REQUEST), GRAPH)


def assert_whole(out, undisturbed):
    found = verify(out)
    assert found.problems == []
    assert (found.num_requested, found.num_rows) == (NUM_IMAGES, NUM_IMAGES)
    assert digest(out) == undisturbed


def remaining(out):
    return Store(out).find_pass(REQUEST).remaining()


ACTORS, TASKS = ("ray::MapWorker(",), ("ray::IDLE", "ray::MapBatches(", "ray::ReadRemainingBlocks")


def workers(driver, titles):
    """Ray's workers of this driver whose titles begin so."""
    return [p for p in psutil.Process(driver.pid).children(recursive=True) if _title(p).startswith(titles)]


def _title(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@on_s3_first
def test_the_driver_is_killed(undisturbed, place):
    driver = start(*place)
    wait_for(driver, 1)
    driver.kill()
    driver.communicate()
    assert 0 < remaining(place[1]) < NUM_IMAGES
    again(*place)
    assert_whole(place[1], undisturbed)


@pytest.mark.parametrize(
    ("storage", "titles"),
    [
        ("disk", ACTORS),
        pytest.param("s3", ACTORS, marks=in_soak),
        pytest.param("disk", TASKS, marks=in_soak),
        ("s3", TASKS),
    ],
)
@pytest.mark.slow
def test_worker_processes_or_actors_are_killed_and_the_run_goes_on_by_itself(undisturbed, place, titles):
    """Those of tasks decode and commit; they are killed again and again, whatever each is at work on."""
    driver = start(*place)
    wait_for(driver, 1)
    num_killed = 0
    for _ in range(4 if titles is TASKS else 1):
        for process in workers(driver, titles):
            process.kill()
            num_killed += 1
        time.sleep(0.5)
    assert num_killed > 0
    finish(driver)
    assert_whole(place[1], undisturbed)


@pytest.mark.slow
@on_disk_first
def test_the_model_s_process_is_killed_and_the_run_goes_on_by_itself(undisturbed, place):
    driver = start(*place)
    wait_for(driver, 1)
    (actor,) = workers(driver, ACTORS)
    (model,) = actor.children()
    model.kill()
    finish(driver)
    assert_whole(place[1], undisturbed)


@pytest.fixture
def two_nodes(shared_ray):
    """The address of a cluster, and a function that kills its second node."""
    from ray._private.worker import global_worker
    from ray.cluster_utils import Cluster
    from ray.experimental.internal_kv import _initialize_internal_kv

    Path(os.environ["RAY_TMPDIR"], "ray").mkdir(exist_ok=True)
    each = {"num_cpus": 3, "object_store_memory": 2**28}
    cluster = Cluster(initialize_head=True, head_node_args={**each, "include_dashboard": False})
    try:
        other = cluster.add_node(**each)
        cluster.wait_for_nodes()
        yield cluster.address, lambda: os.kill(other.all_processes["raylet"][0].process.pid, signal.SIGKILL)
    finally:
        cluster.shutdown()
        _initialize_internal_kv(global_worker.gcs_client)  # this process's own, which it takes away, too


@pytest.mark.slow
@on_disk_first
def test_a_node_is_killed_half_way_and_the_run_goes_on_by_itself(undisturbed, place, two_nodes):
    address, kill = two_nodes
    driver = start(*place, address)
    wait_for(driver, NUM_IMAGES // 2)
    kill()
    finish(driver)
    assert_whole(place[1], undisturbed)


@pytest.mark.slow
@on_disk_first
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["ctrl_c", "sigterm"])
def test_a_stop_finishes_what_is_under_way_and_drops_the_rest(undisturbed, place, how):
    driver = start(*place)
    wait_for(driver, 1)
    # A terminal sends Ctrl-C to all; containers, spot machines and `timeout` end the command itself.
    (os.killpg if how is signal.SIGINT else os.kill)(driver.pid, how)
    said, complaints = driver.communicate(timeout=WAIT_S)
    assert (driver.returncode, complaints) == (130, ""), said
    assert "stopping" in said
    left = remaining(place[1])
    assert f"interrupted: {NUM_IMAGES - left} of {NUM_IMAGES} images are committed; the same command continues" in said
    assert 0 < left < NUM_IMAGES
    assert Store(place[1]).find_pass(REQUEST).ledger().orphans == []
    again(*place)
    assert_whole(place[1], undisturbed)


@pytest.mark.slow
@on_disk_first
def test_a_second_ctrl_c_stops_at_once(undisturbed, place):
    driver = start(*place, delay_s=60)
    wait_for(driver, 0)
    wait_until(lambda: workers(driver, ACTORS), process=driver)
    os.killpg(driver.pid, signal.SIGINT)
    assert any(line.startswith("stopping") for line in driver.stdout)
    os.killpg(driver.pid, signal.SIGINT)
    said, _ = driver.communicate(timeout=WAIT_S)
    assert driver.returncode == 130
    assert f"interrupted: 0 of {NUM_IMAGES} images are committed" in said
    again(*place)
    assert_whole(place[1], undisturbed)


@pytest.mark.slow
@on_s3_first
def test_the_same_command_started_twice_at_once_is_refused_the_second_time(undisturbed, place):
    driver = start(*place)
    wait_for(driver, 1)
    second = start(*place)
    said, _ = second.communicate(timeout=WAIT_S)
    assert second.returncode == 2
    assert f"process {driver.pid}" in said
    finish(driver)
    assert_whole(place[1], undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["s3"])
def test_the_storage_is_away_for_a_while_and_the_run_goes_on_by_itself(undisturbed, place, s3):
    driver = start(*place)
    wait_for(driver, 1)
    s3.kill()
    time.sleep(10)
    s3.start()
    finish(driver)
    assert_whole(place[1], undisturbed)


@pytest.mark.slow
def test_a_full_disk_is_one_clear_error_and_the_run_goes_on_when_there_is_room(undisturbed, images, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        driver = start(str(images), str(disk / "out"), delay_s=0)
        said, complaints = driver.communicate(timeout=WAIT_S)
        assert driver.returncode == 2, said + complaints
        assert "the disk is full. Free some space and run the same command again" in said.splitlines()[-1]
        assert remaining(disk / "out") > 0
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        again(str(images), str(disk / "out"))
        assert_whole(disk / "out", undisturbed)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
