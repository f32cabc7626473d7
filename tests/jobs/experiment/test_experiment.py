"""`vigc experiment`: its material, its arms, its table, and a miniature that is killed and goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter

import pytest
from datasets import finished
from processes import start
from waiting import WAIT_S, wait_until

from vigc.jobs.experiment.run import ARMS, Experiment, _write_arms
from vigc.jobs.experiment.tables import _row
from vigc.jobs.train.recipes import make_recipes
from vigc.model.scenes.material import write_held_out, write_labelled, write_unlabelled
from vigc.model.scenes.wording import CONVERSATION
from vigc.platform.evaluation.items import Metric
from vigc.platform.instructions import open_instructions
from vigc.platform.quality.settings import FilterSettings
from vigc.platform.records import Kind
from vigc.platform.report.experiment import write_page

SIZES = {"min_objects": 3, "max_objects": 9}


def test_labelled_scenes_are_ordinary_instruction_data_and_unlabelled_ones_say_nothing(tmp_path):
    labelled = write_labelled(tmp_path / "labelled", num=5, seed=1, request="Describe this image in detail.", **SIZES)
    read = list(open_instructions(labelled, images=str(tmp_path / "labelled" / "images")))
    assert Counter(one.kind for one in read) == {Kind.DETAIL: 5, Kind.CONVERSATION: 15}
    images = write_unlabelled(tmp_path / "unlabelled", num=5, seed=2, **SIZES)
    assert len(list(images.iterdir())) == 5
    assert [entry.name for entry in (tmp_path / "unlabelled").iterdir()] == ["images"]


def test_held_out_scenes_are_asked_about_every_topic_and_none_of_them_is_labelled(tmp_path):
    labelled = write_labelled(tmp_path / "labelled", num=4, seed=1, request="Describe.", **SIZES)
    asked = write_held_out(tmp_path / "held-out", num=4, seed=1, **SIZES)  # the same seed of another split
    lines = [json.loads(line) for line in asked.read_text().splitlines()]
    assert {line["type"] for line in lines} == set(CONVERSATION)
    assert all(len(line["answers"]) == 2 for line in lines)
    assert len({line["id"] for line in lines}) == len(lines)
    pictures = [sorted(one.read_bytes() for one in (f.parent / "images").iterdir()) for f in (labelled, asked)]
    assert not set(pictures[0]) & set(pictures[1])


def config(out, **changed):
    (recipe,) = make_recipes("llava_lora", {"num_updates": 2})
    return Experiment(out=str(out), recipe=recipe, **changed)


def test_vig_and_vic_are_learnt_from_the_same_questions_and_the_filtered_arm_from_some_of_them(tmp_path):
    store = finished(tmp_path / "generated", num=12)
    _write_arms(config(tmp_path, filters=FilterSettings(min_words=99, max_words=100)), tmp_path, store)
    arms = {arm: json.loads((tmp_path / "data" / f"{arm}.json").read_text()) for arm in ("vig", "vic", "filtered")}
    assert arms["vig"]
    questions = [[(r["id"], r["conversations"][0]) for r in arms[arm]] for arm in ("vig", "vic")]
    assert questions[0] == questions[1]
    answers = [[r["conversations"][1] for r in arms[arm]] for arm in ("vig", "vic")]
    assert answers[0] != answers[1]
    assert arms["filtered"] == []  # nobody speaks 99 words
    before = (tmp_path / "data" / "vic.json").read_bytes()
    _write_arms(config(tmp_path), tmp_path, store)  # the verdicts that are there now change nothing
    assert (tmp_path / "data" / "vic.json").read_bytes() == before


def metric(rights):
    return Metric("exact", [(f"im{number // 2}", float(right), 1.0) for number, right in enumerate(rights)])


def test_a_difference_is_clear_where_all_seeds_and_pictures_agree_and_not_where_one_seed_makes_it():
    found = {("base", seed): metric([1, 0] * 20) for seed in range(3)}
    better = found | {("vic", seed): metric([1, 1] * 20) for seed in range(3)}
    row = _row("questions", ("exact", ""), better, ("base", "vic"), (0, 1, 2), 0)
    assert (row.num, row.arms["base"].value, row.arms["vic"].value) == (40, 0.5, 1.0)
    assert row.differences["vic"].is_clear
    assert row.differences["vic"].value == 0.5
    lucky = found | {("vic", 0): metric([1, 1] * 20)} | {("vic", seed): metric([1, 0] * 20) for seed in (1, 2)}
    row = _row("questions", ("exact", ""), lucky, ("base", "vic"), (0, 1, 2), 0)
    assert row.differences["vic"].value == pytest.approx(1 / 6)
    assert not row.differences["vic"].is_clear
    assert row.by_seed["vic"] == [1.0, 0.5, 0.5]


def test_the_page_shows_every_arm(tmp_path):
    estimate = {"value": 0.5, "low": 0.25, "high": 0.75}
    row = {"benchmark": "chair", "measure": "chair_s", "part": "", "num": 7, "by_seed": {}}
    row |= {"arms": dict.fromkeys(ARMS, estimate), "differences": dict.fromkeys(list(ARMS)[1:], estimate)}
    write_page(tmp_path / "page.html", {"seeds": [0, 1], "rows": [row]}, ARMS)
    page = (tmp_path / "page.html").read_text()
    assert page.count("0.500 [0.250, 0.750]") == 4
    assert page.count("<b>+0.500</b>") == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model", "some/model"], "--updates is missing"),
        (["--images", "photos"], "--base, --benchmark missing"),
        (["--arms", "vig,vic"], "base is what the others are compared with"),
        (["--benchmark", "okvqa"], "give NAME=FILE"),
    ],
)
def test_wrong_use_of_experiment_is_one_line(vigc_here, tmp_path, arguments, told):
    result = vigc_here("experiment", "--out", "run", *arguments, cwd=tmp_path)
    assert result.code == 2
    assert told in result.err
    assert result.err.count("\n") == 1


@pytest.mark.soak
def test_a_miniature_that_is_killed_goes_on_and_repeats_nothing(tmp_path):
    sets = ["--set", "batch_size=4", "--set", "micro_batch_size=4", "--set", "checkpoint_every=2"]
    sizes = ["--labelled", "8", "--unlabelled", "8", "--held-out", "6", "--seeing", "2", "--updates", "4"]
    words = [sys.executable, "-m", "vigc.jobs.cli", "experiment", "--out", str(tmp_path / "mini")]
    words += [*sizes, *sets, "--seeds", "1", "--arms", "base,vic"]
    first = start(*words)
    trained = tmp_path / "mini" / "runs" / "base-0" / "model" / "config.json"
    wait_until(trained.is_file, process=first, pause_s=0.2)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    before = os.stat(trained).st_mtime_ns
    done = subprocess.run(words, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert os.stat(trained).st_mtime_ns == before
    found = json.loads((tmp_path / "mini" / "experiment.json").read_text())
    assert {(row["benchmark"], row["measure"]) for row in found["rows"]} >= {
        ("questions", "exact"),
        ("chair", "chair_s"),
        ("chair", "recall"),
    }
    assert "existence" in {row["part"] for row in found["rows"]}
    assert (tmp_path / "mini" / "report.html").is_file()
