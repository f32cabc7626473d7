"""Verbs as jobs of a cluster: sent with this code, followed, killed, stopped, and sent again."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
import requests
from processes import start
from ray_cluster import BIN, RayCluster
from waiting import WAIT_S, wait_until

from vigc.jobs.machine import git_commit
from vigc.jobs.scenes import make_scenes
from vigc.jobs.submit.run import Cluster, Job, packed, variables, with_whole_paths
from vigc.platform.dataset.store import Store
from vigc.platform.dataset.verify import verify
from vigc.platform.records import ConfigError, RunError

NUM_IMAGES = 8
VIGC = (sys.executable, "-m", "vigc")
ROOT = Path(__file__).parents[3]


def test_local_paths_are_made_whole_and_others_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("verify", "detail", "coco"):  # as other words are called, too
        (tmp_path / name).mkdir()
    words = [
        "verify",
        "photos",
        "--out",
        "data",
        "--data=photos",
        "--kinds",
        "detail",
        "--out=s3://b/m",
        "--images",
        "",
    ]
    words += ["--source", "coco", "--annotations", "coco,photos", "--objects", "./photos"]
    made, local = with_whole_paths(words)
    here = str(tmp_path)
    assert made == [
        "verify",
        f"{here}/photos",
        "--out",
        f"{here}/data",
        f"--data={here}/photos",
        "--kinds",
        "detail",
        "--out=s3://b/m",
        "--images",
        "",
        "--source",
        "coco",
        "--annotations",
        f"{here}/coco,{here}/photos",
        "--objects",
        f"{here}/photos",
    ]
    assert local == [f"{here}/{name}" for name in ("photos", "data", "photos", "coco", "photos", "photos")]


def test_a_job_sent_again_does_not_overwrite_what_the_first_one_made(tmp_path):
    job = Job.of(["generate", "it's here", "--out", "data", "--overwrite"], tmp_path, {})
    assert job.verb == "generate"
    assert job.again().entrypoint == "python -m vigc generate 'it'\"'\"'s here' --out data"


def test_only_named_variables_go_along_and_the_address_of_mlflow(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    found = variables(["AWS_REGION", "LEVEL=a=b"])
    assert {"MLFLOW_TRACKING_URI", "AWS_REGION", "LEVEL"} <= set(found) <= {*found, "VIGC_GIT_COMMIT"}
    assert (found["LEVEL"], "secret" in found.values()) == ("a=b", False)
    with pytest.raises(ConfigError, match="--env ABSENT: there is no such variable here"):
        variables(["ABSENT"])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "Say which verb to submit"),
        (["--follow", "a", "--stop", "b"], "--follow and --stop contradict each other"),
        (["--resume", "a", "generate"], "--resume and a verb contradict each other"),
        (["--address", "http://127.0.0.1:9", "generate"], r"No Ray cluster answers at http://127\.0\.0\.1:9 "),
        (["--address", "127.0.0.1:9", "generate"], r"Nobody listens at 127\.0\.0\.1:9 "),
    ],
)
def test_what_cannot_be_submitted_is_one_line(arguments, complaint, vigc_here):
    result = vigc_here("submit", *arguments)
    assert result.code == 2
    assert re.search(complaint, result.err)
    assert result.err.count("\n") == 1


class GoneClient:
    """Of a cluster whose head died after it had answered once."""

    def get_address(self):
        return "http://head:8265"

    def submit_job(self, **_):
        raise requests.ConnectionError("refused")

    def get_job_info(self, _):
        raise requests.ConnectionError("refused")


@pytest.mark.parametrize(
    "ask",
    [lambda one: one.submit(Job("python -m vigc verify out", {})), lambda one: one.job("a"), lambda one: one.stop("a")],
)
def test_a_cluster_that_does_not_answer_any_more_is_one_line(ask, monkeypatch):
    monkeypatch.setattr("vigc.jobs.submit.run._client", lambda address: GoneClient())
    with pytest.raises(RunError, match=re.escape("http://head:8265 does not answer any more (refused).")):
        ask(Cluster(None))


def test_the_code_that_is_sent_is_whole():
    """It is imported from the folder alone, weights and prompts included."""
    with packed() as folder:
        code = "import vigc, vigc.jobs.cli; from vigc.model.embedded import PATH; print(vigc.__file__, PATH.exists())"
        said = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, env={"PATH": ""}, capture_output=True, text=True, check=True
        )
        assert said.stdout == f"{folder}/vigc/__init__.py True\n"
    assert not folder.exists()


@pytest.fixture(scope="module")
def cluster(ray_folder):
    folder = Path(tempfile.mkdtemp(prefix="vs"))
    python_path = {"PYTHONPATH": ""}  # jobs have vigc from what is sent, and from nowhere else
    made = RayCluster(folder, num_cpus=4, env=python_path)
    try:
        yield made.start()
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("submit") / "scenes"
    make_scenes(folder, num=NUM_IMAGES, seed=7)
    return folder


def submit(cluster, *words):
    env = {**os.environ, "MLFLOW_TRACKING_URI": ""}
    return start(*VIGC, "submit", "--address", cluster.url, *words, env=env)


def ended(client):
    said, complaints = client.communicate(timeout=WAIT_S)
    return client.returncode, said, complaints


def wait_for_rows(out, number, client):
    def enough():
        passes = Store(out).passes() if Path(out).exists() else []
        num_done = passes[0].num_requested - passes[0].remaining() if passes else 0
        return num_done if num_done >= number else None

    return wait_until(enough, process=client, pause_s=0.2)


def driver_of(cluster, out):
    """The process that runs the verb, not the shell that started it."""
    for process in cluster.processes():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if words[1:4] == ["-m", "vigc", "generate"] and str(out) in words:
            return process
    raise AssertionError("no job is running")


def small_run(scenes, out):
    return ["generate", scenes, "--out", out, "--slots", "1", "--kinds", "detail", "--device", "cpu"]


def assert_whole(out):
    found = verify(out)
    assert (found.problems, found.num_rows, len(Store(out).passes())) == ([], NUM_IMAGES, 1)


def test_a_job_that_is_killed_is_sent_again_and_goes_on_where_it_was(cluster, scenes, tmp_path):
    out = tmp_path / "data"
    client = submit(cluster, *small_run(scenes, out))
    num_made = wait_for_rows(out, 1, client)
    assert num_made < NUM_IMAGES
    driver_of(cluster, out).kill()
    code, said, complaints = ended(client)
    assert code == 0, said + complaints
    assert re.search(r"The job was lost \(.*\)\. Sent again, to go on from what is committed\.", complaints)
    assert complaints.count(f"dashboard  {cluster.url}/#/jobs/vigc-generate-") == 2
    assert f"{NUM_IMAGES} images" in said
    assert_whole(out)
    runs = [json.loads(file.read_text()) for file in sorted((out / "passes" / "001" / "runs").glob("*.json"))]
    assert [run["git_commit"] for run in runs] == [git_commit()] * 2  # told, for what is sent is no checkout
    assert runs[1]["num_made"] < NUM_IMAGES


@pytest.mark.soak
def test_ctrl_c_leaves_the_job_running_and_one_that_is_stopped_can_be_resumed(cluster, scenes, tmp_path):
    out = tmp_path / "data"
    client = submit(cluster, *small_run(scenes, out))
    wait_for_rows(out, 1, client)
    os.killpg(client.pid, signal.SIGINT)
    code, _, complaints = ended(client)
    assert code == 130
    assert "The job goes on." in complaints
    (job_id,) = re.findall(rf"vigc submit --address {cluster.url} --follow (\S+)", complaints)
    assert f"vigc submit --address {cluster.url} --stop {job_id}" in complaints
    assert ended(submit(cluster, "--stop", job_id))[:2] == (0, f"{job_id} ends now.\n")
    code, _, _ = ended(submit(cluster, "--follow", job_id))
    assert code == 130  # as of a run that was stopped
    assert 0 < Store(out).passes()[0].remaining() < NUM_IMAGES
    code, said, complaints = ended(submit(cluster, "--resume", job_id))
    assert code == 0, said + complaints
    assert_whole(out)


@pytest.mark.slow
def test_exit_code_and_complaint_are_the_verb_s(cluster, tmp_path):
    code, said, complaints = ended(submit(cluster, "verify", tmp_path / "nothing"))
    assert code == 2, said + complaints
    assert "vigc: " in said
    assert "Traceback" not in said
    assert "The job ended with exit code 2" in complaints


@pytest.mark.slow
def test_by_hand_from_a_clean_clone(cluster, scenes, tmp_path):
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", f"file://{ROOT}", str(clone)], check=True)
    words = ["job", "submit", "--address", cluster.url, "--working-dir", ".", "--"]
    words += ["python", "-m", "vigc", "ingest", str(scenes), "--out", str(tmp_path / "manifest")]
    done = subprocess.run([BIN / "ray", *words], cwd=clone, capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{NUM_IMAGES} images" in done.stdout
    assert "succeeded" in done.stdout
