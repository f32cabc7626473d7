"""The commands of cluster/README.md, in their order: a dozen scenes in a real S3 server, jobs on a real Ray cluster.

Only what is large is put in place of something small, and it is all here.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from ray_cluster import BIN, RayCluster
from vision_server import VisionServer
from waiting import WAIT_S

from vigc.jobs.cli import app
from vigc.jobs.scenes import make_scenes
from vigc.platform.dataset.verify import verify
from vigc.platform.storage import open_folder

ROOT = Path(__file__).parents[2]
README = ROOT / "cluster" / "README.md"
NUM_IMAGES = 12
INSTEAD = {
    " --model Salesforce/instructblip-vicuna-7b": "",  # the embedded model
    " --device cuda --gpus-per-actor 1": " --slots 2 --kinds conversation,detail",
    " --actors 1:32": "",
    "--probe-seconds 120": "--probe-seconds 1",
}
WALKED = {"ingest", "plan", "submit", "verify", "summary", "digest", "filter", "report", "export", "validate"}


def blocks(language: str) -> list[str]:
    """The command lines of README's blocks in this language, with continued lines joined."""
    found = re.findall(rf"^```{language}\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [line for block in found for line in re.sub(r" *\\\n *", " ", block).splitlines() if line.strip()]


@pytest.fixture
def cluster(s3_place: str) -> Iterator[RayCluster]:
    folder = Path(tempfile.mkdtemp(prefix="vw"))
    made = RayCluster(folder, num_cpus=5)
    try:
        yield made.start()
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def model_server() -> Iterator[VisionServer]:
    """In place of `serve deploy cluster/llm.yaml`."""
    with VisionServer(models=("qwen3-vl-8b",)) as server:
        yield server


@pytest.mark.soak
def test_the_commands_of_the_readme_lead_from_images_to_a_published_data_set(
    s3_place: str, cluster: RayCluster, model_server: VisionServer, tmp_path: Path
) -> None:
    make_scenes(tmp_path / "scenes", num=NUM_IMAGES, seed=7)
    place = open_folder(s3_place)
    place.upload("zhiyuan_objv2_train.json", tmp_path / "scenes" / "annotations.json")
    for picture in (tmp_path / "scenes" / "images").iterdir():
        place.upload(f"images/{picture.name}", picture)
    instead = {**INSTEAD, "s3://bucket/objects365": s3_place, "http://127.0.0.1:8265": cluster.url}
    instead |= {"http://127.0.0.1:8000/v1": model_server.url, " --device cpu --actors 1:4": " --kinds conversation"}
    job = ""
    walked = set()
    for line in blocks("sh"):
        command = line.replace("JOB", job)
        for large, small in instead.items():
            command = command.replace(large, small)
        program, verb, *words = shlex.split(command, comments=True)
        start = [sys.executable, "-m", "vigc"] if program == "vigc" else [str(BIN / program)]
        done = subprocess.run(
            [*start, verb, *words], cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S, env=_env()
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        if sent := re.search(r"^job +(\S+)", done.stderr, re.MULTILINE):
            job = job or sent[1]
        walked |= {verb} if program == "vigc" else set()

    assert walked == WALKED
    found = verify(f"{s3_place}/data")
    assert (found.problems, found.num_rows) == ([], NUM_IMAGES)
    assert verify(f"{s3_place}/qwen").num_rows == NUM_IMAGES
    assert "README.md" in (place / "vigc_huggingface").names()


def _env() -> dict[str, str]:
    return {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}


def test_every_command_and_flag_of_the_readme_is_there() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    walked = set()
    for line in blocks("sh"):
        program, *words = shlex.split(line)
        if program != "vigc":
            assert line.startswith("ray job submit --address http://127.0.0.1:8265 --working-dir . -- python -m vigc ")
            words = words[words.index("vigc") + 1 :]
        verb = ""
        for word in words:
            if word in commands and verb in ("", "submit", "plan"):  # these take another verb with its flags
                verb = word
                walked.add(verb)
                known = {option for parameter in commands[verb].params for option in parameter.opts}
            elif word.startswith("--"):
                assert word in known, line
    assert walked == {*WALKED, "generate"}


def test_what_is_put_in_place_of_large_things_is_there_to_be_replaced() -> None:
    text = "\n".join(blocks("sh"))
    assert [large for large in INSTEAD if large not in text] == []


def test_files_that_the_commands_for_clouds_name_are_there() -> None:
    named = {name for line in blocks("bash") for name in re.findall(r"cluster/[\w./-]+", line)}
    assert len(named) >= 6
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
