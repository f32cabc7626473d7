"""`vigc train`: data, order, recipes, and runs that lose a worker."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
from processes import start
from safetensors.torch import load_file
from training_runs import command, kill_a_worker, losses, make_data
from waiting import WAIT_S

from vigc.jobs.train.data import Deal, make_order, num_blocks
from vigc.jobs.train.recipes import make_recipes
from vigc.model.embedded import PATH
from vigc.model.network import load_network
from vigc.model.training.recipe import Recipe, Tasks
from vigc.model.weights.checkpoints import read_about
from vigc.model.weights.model_folders import base_hash
from vigc.platform.records import ConfigError


def test_an_epoch_tells_every_record_both_ways_once_and_each_epoch_in_another_order():
    order = make_order(Recipe("r", "", batch_size=4, num_epochs=2.0), (10, 6))
    assert len(order) == 64
    first, second = order[:32], order[32:]
    assert sorted(first) == sorted(second) == list(range(32))
    assert list(first) != list(second)
    assert list(order) == list(make_order(Recipe("r", "", batch_size=4, num_epochs=2.0), (10, 6)))
    assert list(order) != list(make_order(Recipe("r", "", batch_size=4, num_epochs=2.0, seed=1), (10, 6)))


def test_by_square_root_small_sets_come_round_more_often():
    order = make_order(Recipe("r", "", mixture="sqrt", batch_size=10, num_updates=600), (900, 100))
    small = np.count_nonzero(order // 2 >= 900)
    assert small / len(order) == pytest.approx(0.25, abs=0.01)  # 10 of 30 + 10
    per_record = Counter(int(entry) for entry in order if entry // 2 >= 900)
    assert max(per_record.values()) - min(per_record.values()) <= 1


def test_task_weights_decide_how_often_vig_and_vic_are_learnt():
    recipe = Recipe("r", "", batch_size=10, num_updates=100, tasks=Tasks(vig=1.0, vic=3.0))
    order = make_order(recipe, (200,))
    assert np.count_nonzero(order % 2) / len(order) == pytest.approx(0.75, abs=0.01)
    only = make_order(Recipe("r", "", batch_size=10, num_epochs=1.0, tasks=Tasks(vig=0.0)), (200,))
    assert sorted(only) == list(range(1, 400, 2))


def test_too_few_records_for_a_batch_say_so():
    with pytest.raises(ConfigError, match="fewer than one batch of 128"):
        make_order(Recipe("r", "", num_epochs=1.0), (10,))


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("start", [0, 24])
def test_workers_share_each_update_without_overlap_wherever_a_run_goes_on(world_size, start):
    def share(rank):
        deal = Deal(lambda positions: {"position": positions}, start, 8, rank, world_size)
        blocks = np.array_split(np.arange(96 - start), num_blocks(96 - start, 8))
        return [int(p) for block in blocks for p in deal({"id": block})["position"]]

    shares = [share(rank) for rank in range(world_size)]
    own = 8 // world_size
    for update in range((96 - start) // 8):
        taken = [p for s in shares for p in s[update * own : (update + 1) * own]]
        assert sorted(taken) == list(range(start + 8 * update, start + 8 * update + 8))
        assert all(s[update * own : (update + 1) * own] == sorted(s[update * own : (update + 1) * own]) for s in shares)


def test_a_recipe_can_be_changed_value_by_value():
    (recipe,) = make_recipes(
        "lora_7b", {"optimizer.peak": "1e-4", "trainable.lora.rank": 4, "num_updates": "7", "tasks.noise": 0.5}
    )
    assert (recipe.optimizer.peak, recipe.trainable.lora.rank, recipe.num_updates) == (1e-4, 4, 7)
    assert recipe.tasks.noise == 0.5
    assert make_recipes("paper_7b", {"trainable.lora.rank": 2})[0].trainable.lora.alpha == 16
    assert make_recipes("lora_7b", {"trainable.lora": "none"})[0].trainable.lora is None


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("optimizer.peek=1", "there is no option 'peek'"),
        ("batch_size=many", "--set batch_size: must be a whole number, not 'many'"),
        ("parallel=tensor", "--set parallel: there is no 'tensor'; use ddp"),
        ("batch_size.x=1", "batch_size has no parts"),
    ],
)
def test_a_wrong_option_is_named(option, told):
    with pytest.raises(ConfigError, match=told):
        make_recipes("paper_7b", dict([option.split("=")]))


def test_an_option_may_name_one_stage():
    eyes, words = make_recipes("embedded", {"num_updates": 7, "words.optimizer.peak": 1e-4, "eyes.batch_size": 8})
    assert (eyes.num_updates, words.num_updates) == (7, 7)
    assert (eyes.optimizer.peak, words.optimizer.peak) == (1e-3, 1e-4)
    assert (eyes.batch_size, words.batch_size) == (8, 16)
    with pytest.raises(ConfigError, match="there is no option 'ears'"):
        make_recipes("embedded", {"ears.num_updates": 7})


def test_a_recipe_is_printed_as_it_would_run(vigc_here):
    result = vigc_here("train", "--recipe", "paper_13b", "--print", "--set", "num_epochs=1")
    assert result.code == 0
    printed = json.loads(result.out)
    assert printed["base"] == "Salesforce/instructblip-vicuna-13b"
    assert printed["num_epochs"] == 1.0
    assert printed["optimizer"]["peak"] == 3e-05


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--recipe", "nothing", "--out", "run"], "There is no recipe 'nothing'; use paper_7b"),
        (["--recipe", "paper_7b"], "--out is missing"),
        (["--recipe", "paper_7b", "--out", "run"], "No data"),
        (["--recipe", "paper_7b", "--out", "run", "--data", "nowhere.json"], "nowhere.json: no such file or folder"),
    ],
)
def test_wrong_use_of_train_is_one_line(vigc_here, arguments, told):
    result = vigc_here("train", *arguments)
    assert result.code == 2
    assert told in result.err
    assert result.err.count("\n") == 1


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def run(vigc_joined):
    """`vigc train` on the Ray of this session."""

    def train(*arguments, flags=(), expected=0, workers=2):
        done = vigc_joined(*command(*arguments, workers=workers)[3:], *flags)
        assert done.code == expected, done.out + done.err
        return done

    return train


def test_a_run_that_loses_a_worker_and_one_that_is_stopped_end_like_an_undisturbed_one(run, data, tmp_path):
    options = ("num_updates=16", "checkpoint_every=4", "evaluate_every=8", "num_evaluated=8")
    flags = ["--validation", str(data)]
    run(data, tmp_path / "calm", *options, flags=flags)
    nobody = ["--tracking", "http://127.0.0.1:9"]  # a dead server stops nothing
    driver = start(*command(data, tmp_path / "killed", *options), *flags, *nobody)
    kill_a_worker(driver, tmp_path / "killed", after_update=6)
    out, err = driver.communicate(timeout=WAIT_S)
    assert driver.returncode == 0, out + err
    assert out.count("MLflow at http://127.0.0.1:9 does not take metrics") == 1
    said = [json.loads(line) for line in (tmp_path / "killed" / "predictions.jsonl").read_text().splitlines()]
    assert {line["update"] for line in said} == {8, 16}
    assert all(line["prompt"] and line["target"] and line["said"] for line in said)
    calm, killed = (tmp_path / name / "weights" / "weights.safetensors" for name in ("calm", "killed"))
    assert calm.read_bytes() == killed.read_bytes()
    assert losses(tmp_path / "calm")[16] == losses(tmp_path / "killed")[16]
    about = read_about(tmp_path / "killed" / "weights")
    assert (about.base, about.base_sha256) == (str(PATH), base_hash(PATH))
    assert (about.recipe, about.step, about.details["run"]["recipe"]["seed"]) == ("paper_7b", 16, 42)
    assert {name.split(".")[0] for name in load_file(killed)} == {"query_tokens", "qformer", "language_projection"}
    again = run(data, tmp_path / "killed", *options, flags=[*flags, "--merge"])  # nothing is left but to merge
    assert "learns from llava" in again.out
    assert "Weights of update 16" in again.out
    merged = load_network(tmp_path / "killed" / "model", device="cpu").model.query_tokens
    assert torch.equal(merged, load_file(killed)["query_tokens"])
    other = run(data, tmp_path / "killed", "num_updates=20", *options[1:], flags=flags, expected=2)
    assert "holds another run: recipe.num_updates: 16 -> 20. " in other.err


@pytest.mark.slow
def test_a_wrong_folder_of_images_ends_the_run_in_one_line_and_not_in_weights_that_learnt_nothing(run, data, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    flags = ["--images", str(tmp_path / "elsewhere")]
    done = run(data, tmp_path / "run", "num_updates=16", flags=flags, expected=2, workers=1)
    assert "24 of 24 samples have an image that cannot be read. Is --images the right folder?" in done.err
    assert 1 <= done.out.count("Skipped, image unreadable: ") <= 6
    assert not (tmp_path / "run" / "weights").exists()
