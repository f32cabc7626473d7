"""`vigc generate` from end to end, with the embedded model and a Ray of its own, as a user runs it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from PIL import Image
from waiting import WAIT_S, wait_until

from vigc.platform.dataset.digest import digest
from vigc.platform.dataset.store import Store
from vigc.platform.dataset.verify import verify
from vigc.platform.exports.validate import ValidateOptions, validate

KINDS = ("--kinds", "conversation,detail")


@pytest.fixture(scope="module")
def pictures(scenes_dir, tmp_path_factory):
    """Eight scenes, a PNG among them, and three pictures that are not as they should be."""
    folder = tmp_path_factory.mktemp("pictures") / "pictures"
    folder.mkdir()
    for path in sorted((scenes_dir / "images").iterdir())[:8]:
        shutil.copy(path, folder)
    whole = (folder / "000000.jpg").read_bytes()
    (folder / "deep").mkdir()
    (folder / "deep" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("no picture")
    with Image.open(folder / "000001.jpg") as image:
        image.resize((333, 97)).save(folder / "odd.jpg")
    return folder


@pytest.fixture(scope="module")
def undisturbed(vigc, pictures, tmp_path_factory):
    """The data set of one run that nothing came between, and what the command said."""
    out = tmp_path_factory.mktemp("undisturbed") / "data"
    result = vigc("generate", pictures, "--out", out, *KINDS)
    assert result.code == 0, result.err
    return out, result


def answers(out):
    return {
        (row["image_id"], c["kind"]): (c["vig_answer"], c["answer"])
        for row in Store(out).rows()
        for c in row["conversations"]
    }


def committed(out):
    return len([*out.glob("passes/001/rows/*/*.parquet"), *out.glob("passes/001/rows/*.parquet")])


def wait_for_commits(out, number, process):
    wait_until(lambda: committed(out) >= number, process=process)


def test_every_picture_gives_a_row_and_a_broken_one_says_why(undisturbed):
    out, _ = undisturbed
    rows = {row["image_id"]: row for row in Store(out).rows()}

    assert verify(out).problems == []
    assert len(rows) == 11
    assert {name: row["error"]["kind"] for name, row in rows.items() if row["status"] == "failed"} == {
        "deep/cut.jpg": "truncated",
        "text.png": "not_an_image",
    }
    assert (rows["odd.jpg"]["width"], rows["odd.jpg"]["height"], rows["odd.jpg"]["status"]) == (333, 97, "ok")
    assert rows["000004.png"]["status"] == "ok"
    assert all(
        [c["kind"] for c in row["conversations"]] == ["conversation", "detail"]
        for row in rows.values()
        if row["status"] == "ok"
    )
    assert {row["pass"] for row in rows.values()} == {"001"}


def test_the_command_ends_with_figures_samples_paths_and_what_to_try_next(undisturbed):
    out, result = undisturbed
    kept = json.loads((out / "summary.json").read_text())["num_kept"]

    assert "11 of 11 images: 9 ok, 2 failed" in result.out
    assert f"{kept} conversations" in result.out
    assert "images/s" in result.out
    assert result.out.count(" x 320 ─") + result.out.count(" x 97 ─") == 5
    assert f"{out}/report.html" in result.out
    assert 'loading="lazy"' in (out / "report.html").read_text()  # with pictures
    for command in (f"vigc show {out}", f"vigc verify {out}", f"vigc export {out} --format llava"):
        assert command in result.out
    assert result.err == ""


def test_the_request_says_what_was_asked_and_the_run_how_it_was_done(undisturbed, pictures):
    out, _ = undisturbed
    request = json.loads((out / "passes/001/request.json").read_text())
    run = json.loads((out / "passes/001/runs/001.json").read_text())

    assert request["source"] == f"folder {pictures}"
    assert request["kinds"] == ["conversation", "detail"]
    assert request["policy"]["max_steps"] == 16
    assert run["config"]["slots"] is None
    assert run["config"]["set"] == {}
    assert run["versions"]["ray"]
    assert run["num_made"] == 11
    assert run["seconds"] > 0


def test_the_llava_export_of_a_run_is_valid(vigc_here, undisturbed, pictures, tmp_path):
    out, _ = undisturbed
    result = vigc_here("export", out, "--format", "llava", "--out", tmp_path / "train.json", "--check")

    assert result.code == 0, result.err
    assert str(pictures) in result.out
    assert validate(str(tmp_path / "train.json"), ValidateOptions(folder=str(pictures))).is_ok
    summary = json.loads((out / "summary.json").read_text())
    assert len(json.loads((tmp_path / "train.json").read_text())) == summary["num_kept"]


def test_the_same_command_again_starts_neither_ray_nor_torch_and_reports_the_same(undisturbed, pictures):
    out, first = undisturbed
    spy = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr))"
    before = digest(out)

    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{spy}; from vigc.jobs.cli import main; main()",
            "generate",
            pictures,
            "--out",
            out,
            *KINDS,
            "--resume",
        ],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0
    assert not {"torch", "ray", "transformers"} & set(done.stderr.split())
    assert "pyarrow" in done.stderr.split()
    before_that = first.out.replace("11 images in this run", "nothing was left to do")
    assert done.stdout[done.stdout.index("─") :] == before_that[before_that.index("─") :]
    assert len(list((out / "passes/001/runs").iterdir())) == 1
    assert digest(out) == before


def test_another_request_is_refused_naming_the_difference(vigc_here, undisturbed, pictures):
    out, _ = undisturbed
    result = vigc_here("generate", pictures, "--out", out, "--kinds", "detail", "--seed", 3)

    assert result.code == 2
    assert 'kinds: ["conversation", "detail"] -> ["detail"]; seed: 0 -> 3' in result.err


def test_pictures_that_came_later_are_not_silently_left_out(vigc_here, undisturbed, pictures):
    out, _ = undisturbed
    shutil.copy(pictures / "000000.jpg", pictures / "late.jpg")
    try:
        result = vigc_here("generate", pictures, "--out", out, *KINDS)
    finally:
        (pictures / "late.jpg").unlink()

    assert "the source now has 12 images, but the data set keeps to the 11 it was begun with" in " ".join(
        result.out.split()
    )


@pytest.mark.slow
def test_a_run_that_is_interrupted_and_killed_ends_as_if_nothing_had_happened(
    vigc_joined, vigc_started, undisturbed, pictures, tmp_path
):
    out = tmp_path / "data"
    command = ("generate", pictures, "--out", out, *KINDS, "--slots", 1)  # so that images finish one after another

    with vigc_started(*command) as interrupted:
        wait_for_commits(out, 1, interrupted)
        os.killpg(interrupted.pid, signal.SIGINT)  # as a terminal does
        _, said = interrupted.communicate(timeout=WAIT_S)
    after_interrupt = committed(out)
    assert interrupted.returncode == 130
    assert "the same command continues from there" in said
    assert "Traceback" not in said
    assert 1 <= after_interrupt < 11

    with vigc_started(*command) as killed:
        wait_for_commits(out, after_interrupt + 1, killed)
        os.kill(killed.pid, signal.SIGKILL)
    assert committed(out) < 11
    assert vigc_joined("verify", out).code == 1

    resumed = vigc_joined(*command, "--json")

    assert resumed.code == 0, resumed.err
    assert 0 < resumed.json()["num_made"] < 11
    assert verify(out).problems == []
    assert digest(out) == digest(undisturbed[0])


@pytest.mark.slow
def test_two_actors_give_the_digest_of_one(vigc_joined, undisturbed, pictures, tmp_path):
    out = tmp_path / "data"
    result = vigc_joined("generate", pictures, "--out", out, *KINDS, "--actors", 2, "--json")

    assert result.code == 0, result.err
    assert result.json()["summary"]["num_rows"] == 11
    assert digest(out) == digest(undisturbed[0])


@pytest.mark.slow
def test_the_reference_engine_gives_the_digest_of_the_continuous_one(vigc_joined, undisturbed, pictures, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    for name in ("000000.jpg", "000001.jpg", "000002.jpg", "000004.png"):
        shutil.copy(pictures / name, few)

    result = vigc_joined("generate", few, "--out", tmp_path / "data", *KINDS, "--engine", "reference", "--json")

    assert result.code == 0, result.err
    expected = {key: value for key, value in answers(undisturbed[0]).items() if (few / key[0]).exists()}
    assert len(expected) == 8
    assert answers(tmp_path / "data") == expected


def test_a_model_that_cannot_be_loaded_is_one_line_and_leaves_nothing(vigc_joined, pictures, tmp_path):
    from vigc.model.embedded import PATH

    model = shutil.copytree(PATH, tmp_path / "model")
    shutil.rmtree(model / "qformer_tokenizer")

    result = vigc_joined("generate", pictures, "--out", tmp_path / "data", "--model", model)

    assert result.code == 2
    assert result.err.startswith(f"vigc: {model}: the model lacks the Q-Former's tokenizer")
    assert result.err.count("\n") == 1
    assert not (tmp_path / "data").exists()
