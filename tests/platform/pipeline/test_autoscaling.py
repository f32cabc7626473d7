"""A cluster whose nodes come and go: none at first, more as there is work, one killed, none in the end."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from datasets import REQUEST, draw
from processes import start
from ray_cluster import RayCluster
from waiting import WAIT_S, wait_until

from vigc.platform.dataset.store import Store
from vigc.platform.dataset.verify import verify

pytestmark = pytest.mark.slow

NUM_IMAGES = 40
DELAY_S = 3.0  # for each block of two; an actor is at work on two at a time
NUM_ACTORS = 8  # of half a CPU: more than the head and one node hold
DRIVER = Path(__file__).parents[2] / "helpers" / "driver_process.py"
# Ray Data asks for nodes, and lets go of them, in steps of many seconds unless told otherwise.
QUICK = {
    "RAY_DATA_MIN_GAP_BETWEEN_AUTOSCALING_REQUESTS": "1",
    "RAY_DATA_CLUSTER_UTIL_AVG_WINDOW_S": "2",
    "RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S": "5",
    "RAY_DATA_LOW_UTIL_REQUEST_RELEASE_DELAY_S": "3",
}


@pytest.fixture
def cluster():
    folder = Path(tempfile.mkdtemp(prefix="va"))
    made = RayCluster(folder, num_cpus=1, dashboard=False, env=QUICK, autoscaling=(2, 3))
    try:
        yield made.start()
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


def test_nodes_come_as_there_is_work_one_is_killed_and_all_go_in_the_end(cluster, tmp_path):
    for seed in range(NUM_IMAGES):
        draw(tmp_path / "images" / f"{seed:02}.png", seed)
    out, gate = tmp_path / "out", tmp_path / "gate"
    assert cluster.raylets() == []
    words = (tmp_path / "images", out, DELAY_S, cluster.address, NUM_ACTORS, gate)
    driver = start(sys.executable, DRIVER, *words, env={**os.environ, **QUICK})
    try:
        wait_until(lambda: len(cluster.raylets()) >= 2, process=driver, pause_s=0.5)
        gate.touch()  # else one quick node may have done all before there are two
        store = Store(out)
        wait_until(lambda: store.find_pass(REQUEST).ledger().num_rows >= 2, process=driver, pause_s=0.5)
        assert store.find_pass(REQUEST).remaining() > 0
        cluster.raylets()[0].kill()
        said, complaints = driver.communicate(timeout=WAIT_S)
    finally:
        driver.kill()
    assert driver.returncode == 0, said + complaints
    found = verify(out)
    assert (found.problems, found.num_rows) == ([], NUM_IMAGES)
    wait_until(lambda: cluster.raylets() == [], pause_s=0.5)
