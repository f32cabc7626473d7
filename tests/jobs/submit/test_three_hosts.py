"""A job on a cluster of three hosts with a network between them: one is cut off for a minute, one is lost for good.

Run by `make soak`. Each host is a network namespace with a `ray start` in it; pictures and data lie in an S3 server
outside, from where the job is submitted by hand, as from a laptop. MLflow's server is there, too, with PostgreSQL.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import mlflow
import mlflow_server
import pytest
from hosts import Hosts, why_not
from ray_cluster import BIN
from s3_server import S3Server

from vigc.jobs.scenes import make_scenes
from vigc.platform.dataset.store import Store
from vigc.platform.dataset.verify import verify
from vigc.platform.storage import open_folder

pytestmark = pytest.mark.soak

NUM_IMAGES = 240
CUT_S = 60
NUM_TRIES = 5  # to start the head node
ROOT = Path(__file__).parents[3]
HEAD, CUT, LOST = 0, 1, 2
GCS_PORT, JOBS_PORT = 6379, 8265  # in a network of its own, every port is free
BEGAN = time.monotonic()


def say(what):
    print(f"{time.monotonic() - BEGAN:6.1f} s  {what}", flush=True)


@pytest.fixture
def hosts():
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    made = Hosts(3)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def storage(hosts, tmp_path, monkeypatch):
    server = S3Server(tmp_path / "s3", hosts.outside)
    server.start()
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_PROXY", "*")
    yield f"s3://{server.bucket}/three-hosts"
    server.kill()


@pytest.fixture
def tracking(hosts, storage):
    reason = mlflow_server.why_not()
    if reason is not None:
        pytest.skip(reason)
    server = mlflow_server.MlflowServer(hosts.outside, artifacts=f"{storage}/mlflow")
    try:
        yield server.start().url
    finally:
        server.close()


class Nodes:
    """A `ray start` on each host, started again where it ends, as an init system would, until the host is lost."""

    def __init__(self, hosts, folder):
        self.hosts, self.folder, self._over = hosts, folder, threading.Event()
        self._lost, self._running = set(), {}
        self.num_started = {HEAD: 0, CUT: 0, LOST: 0}
        self.url = f"http://{hosts.addresses[HEAD]}:{JOBS_PORT}"
        self.start(HEAD)
        self._wait_for_head()
        for number in (CUT, LOST):
            self.start(number)
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def start(self, number):
        address = self.hosts.addresses[number]
        options = ["--num-cpus=3", f"--address={self.hosts.addresses[HEAD]}:{GCS_PORT}"]
        if number == HEAD:
            options = ["--head", "--num-cpus=2", f"--port={GCS_PORT}", f"--dashboard-port={JOBS_PORT}"]
            options += [f"--dashboard-host={address}", "--include-dashboard=true"]
        command = [sys.executable, str(BIN / "ray"), "start", "--block", "--disable-usage-stats", *options]
        command += [f"--node-ip-address={address}", f"--object-store-memory={100 * 2**20}"]
        # Ray calls its folder the same on all nodes, so each host has a disk of its own under that name.
        own, shared = self.folder / f"disk{number}", self.folder / "disk"
        (own / "ray").mkdir(parents=True, exist_ok=True)
        shared.mkdir(exist_ok=True)
        env = {**os.environ, "RAY_TMPDIR": str(shared), "PYTHONPATH": "", "PATH": f"{BIN}:{os.environ['PATH']}"}
        env |= {"RAY_raylet_start_wait_time_s": "60"}
        env.pop("RAY_ADDRESS", None)
        self._running[number] = self.hosts.start(number, command, env, self.folder / f"{number}.log", own, shared)
        self.num_started[number] += 1

    def lose(self, number):
        self._lost.add(number)
        self.hosts.kill(number)

    def close(self):
        self._over.set()
        self._thread.join()
        for number in (LOST, CUT, HEAD):
            self.hosts.kill(number)

    def _keep(self):
        while not self._over.wait(2):
            for number, process in list(self._running.items()):
                if process.poll() is not None and number not in (HEAD, *self._lost):
                    say(f"host {number}: its node has ended, and is started again")
                    self.hosts.kill(number)
                    self.start(number)

    def _wait_for_head(self):
        for _ in range(NUM_TRIES):
            end = time.monotonic() + 70
            while time.monotonic() < end and self._running[HEAD].poll() is None:
                if self.alive() == 1:
                    return
                time.sleep(1)
            self.hosts.kill(HEAD)  # a raylet gives its agents 15 s to start, which is too little on a busy machine
            self.start(HEAD)
        raise AssertionError((self.folder / f"{HEAD}.log").read_text())

    def wait_for(self, number):
        self._wait_until(lambda: self.alive() == number)

    def _wait_until(self, met):
        end = time.monotonic() + 300
        while not met():
            assert time.monotonic() < end, "".join(log.read_text() for log in self.folder.glob("*.log"))
            time.sleep(1)

    def answer(self, path):
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/{path}", timeout=10) as answer:
            return json.load(answer)

    def alive(self):
        answer = self.answer("nodes?view=summary")
        nodes = answer["data"]["summary"] if answer else []
        return sum(node["raylet"].get("state") == "ALIVE" for node in nodes)


@pytest.fixture
def nodes(hosts, storage):
    folder = Path(tempfile.mkdtemp(prefix="vh"))
    made = Nodes(hosts, folder)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)


def done(out):
    passes = Store(out).passes()
    return passes[0].num_requested - passes[0].remaining() if passes else 0


def wait_for_rows(out, number, job):
    end = time.monotonic() + 900
    while done(out) < number:
        assert job.poll() is None, f"the job ended at {done(out)} of {NUM_IMAGES}"
        assert time.monotonic() < end, f"only {done(out)} of {NUM_IMAGES} were done in time"
        time.sleep(1)


def say_and_check_history(tracking, storage):
    """One run, with every image in its curve, whatever happened on the way; its report went to S3."""
    client = mlflow.MlflowClient(tracking)
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    attempts = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    [run] = [run for run in runs if run not in attempts]
    curve = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "images_done")]
    say(f"MLflow: one run, {run.info.status}, {len(attempts)} attempts, {len(curve)} points: {curve[0]} to {curve[-1]}")
    assert run.info.status == "FINISHED"
    assert curve == sorted(curve, key=lambda point: point[0])
    assert [value for _, value in curve] == sorted(value for _, value in curve)
    assert (curve[-1][1], len(curve) > 10) == (NUM_IMAGES, True)
    stored = open_folder(f"{storage}/mlflow/{run.info.experiment_id}/{run.info.run_id}/artifacts").names()
    assert {"summary.json", "report.html"} <= set(stored)


def test_a_host_is_cut_off_for_a_minute_and_another_is_lost_for_good(nodes, storage, tracking, tmp_path):
    make_scenes(tmp_path / "scenes", num=NUM_IMAGES, seed=11)
    stored = open_folder(f"{storage}/images")
    for path in (tmp_path / "scenes" / "images").iterdir():
        stored.write(path.name, path.read_bytes())
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", f"file://{ROOT}", str(clone)], check=True)
    nodes.wait_for(3)
    say(f"three hosts are up, {NUM_IMAGES} images are in S3")
    out = f"{storage}/data"
    words = ["python", "-m", "vigc", "generate", f"{storage}/images", "--out", out, "--actors", "2", "--slots", "4"]
    words += ["--kinds", "detail", "--device", "cpu", "--stall-timeout", "1", "--tracking", tracking]
    log = tmp_path / "job.log"
    with open(log, "wb") as file:
        job = subprocess.Popen(
            [BIN / "ray", "job", "submit", "--address", nodes.url, "--working-dir", ".", "--", *words],
            cwd=clone,
            stdout=file,
            stderr=file,
        )
    try:
        wait_for_rows(out, NUM_IMAGES // 8, job)
        say(f"{done(out)} images are done; host {CUT} is cut off")
        nodes.hosts.cut(CUT)
        time.sleep(CUT_S)
        nodes.hosts.mend(CUT)
        say(f"{done(out)} images are done; host {CUT} is connected again")
        wait_for_rows(out, min(done(out) + NUM_IMAGES // 8, NUM_IMAGES * 7 // 8), job)
        say(f"{done(out)} images are done; host {LOST} is lost for good")
        nodes.lose(LOST)
        code = job.wait(900)
    finally:
        job.kill()
        print(log.read_text(errors="replace"), flush=True)
    assert code == 0
    found = verify(out)
    say(f"verify: {found.num_rows} rows, problems: {found.problems}")
    assert (found.problems, found.num_rows, found.num_failed) == ([], NUM_IMAGES, 0)
    assert len(Store(out).passes()) == 1
    say_and_check_history(tracking, storage)
    say(f"nodes were started {nodes.num_started} times")
    assert nodes.num_started[CUT] >= 1
