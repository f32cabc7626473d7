"""Every verb that uses a model takes the GPUs of the cluster it runs on, wherever its driver is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from ray_cluster import RayCluster
from waiting import WAIT_S

from vigc.jobs.scenes import make_scenes

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
HELPERS = ROOT / "tests" / "helpers"
VERBS = ("generate", "plan", "evaluate", "train", "finetune", "experiment", "serve")


@pytest.fixture(scope="module")
def cluster():
    """Its head has no GPU, and a node beside it has one, which is logical."""
    folder = Path(tempfile.mkdtemp(prefix="vh"))
    made = RayCluster(folder, num_cpus=2, dashboard=False)
    try:
        made.start().add_node(num_cpus=2, num_gpus=1)
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def driver(cluster):
    """The environment of a driver at the head."""
    return {**os.environ, "RAY_ADDRESS": cluster.address, "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="module")
def chosen(driver, tmp_path_factory):
    """What each verb hands to Ray, by its name and what its --device says."""
    folder = tmp_path_factory.mktemp("chosen")
    command = [sys.executable, HELPERS / "chosen_hardware.py", folder]
    done = subprocess.run(command, env=driver, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("device", "expected"), [("auto", ["cuda", 1]), ("cuda", ["cuda", 1]), ("cpu", ["cpu", 0])])
def test_a_driver_without_a_gpu_takes_those_of_the_cluster_unless_told_otherwise(chosen, verb, device, expected):
    if verb == "experiment":  # hands its device on to the verbs that it is made of
        expected = [expected[0], None]
    assert chosen[f"{verb} {device}"] == expected


@pytest.fixture
def evaluate(driver, tmp_path):
    """One question to the embedded model, asked from the head."""
    make_scenes(tmp_path / "scenes", num=1, seed=3)
    images = tmp_path / "scenes" / "images"
    (image,) = images.iterdir()
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"image": image.name, "question": "What is there?", "answers": ["a house"]}))

    def run(*flags):
        files = ["--questions", questions, "--images", images, "--out", tmp_path / "out"]
        command = [sys.executable, "-m", "vigc.jobs.cli", "evaluate", "embedded", "--benchmark", "questions", *files]
        return subprocess.run(
            [*command, *flags], env=driver, capture_output=True, text=True, timeout=WAIT_S, check=False
        )

    return run


def test_a_run_on_cpus_says_so_and_comes_to_its_end_on_the_cluster(evaluate):
    done = evaluate("--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "on cpu (as asked for), float32" in done.stdout


def test_the_actor_is_on_the_node_that_has_the_gpu(evaluate):
    """Where Ray alone puts an actor that asks for one. What is there is a number, so the model cannot be loaded."""
    done = evaluate()
    assert "on cuda (the cluster has 1 GPU), bfloat16" in done.stdout
    assert "The device 'cuda' cannot be used" in done.stderr
    assert done.returncode == 2
