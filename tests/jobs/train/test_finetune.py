"""`vigc finetune`: its data, and a run that is killed and goes on."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from datasets import draw, finished
from processes import start
from training_runs import kill_with_workers, losses, make_data, wait_for_update
from transformers import AutoModelForImageTextToText, AutoProcessor

from vigc.jobs.train.chat_data import SHORT, MakeChatRows, read_chats
from vigc.jobs.train.data import read_records
from vigc.jobs.train.recipes import make_recipes
from vigc.model.llava.tiny import tiny_llava
from vigc.model.prompts import load_pack
from vigc.model.weights.identity import Family, find_model
from vigc.model.weights.model_folders import save_network
from vigc.platform.dataset.verdicts import write_verdicts
from vigc.platform.exports import export
from vigc.platform.instructions import open_instructions
from vigc.platform.instructions.fields import Choice


def chats(path, **options):
    table = read_chats([open_instructions(path, **options)], max_turns=32).table
    told = [(c["image"], [(t["question"], *t["answers"]) for t in c["turns"]]) for c in table.to_pylist()]
    return sorted((image, sorted(turns)) for image, turns in told)


def test_a_data_set_teaches_what_its_llava_export_does(tmp_path):
    store = finished(tmp_path / "out")
    export(store, "llava", tmp_path / "data.json")
    told = chats(tmp_path / "out", images="/nowhere")
    assert told == chats(tmp_path / "data.json", images="/nowhere")
    assert [len(turns) for _, turns in told] == [2, 2]


def test_what_a_filter_rejects_is_not_learnt(tmp_path):
    store = finished(tmp_path / "out")
    before = chats(tmp_path / "out")
    verdict = {"image_id": ["im1.png"], "kind": ["detail"], "pass": ["001"], "verdict": ["rejected"]}
    verdict["reasons"] = [["absent"]]
    write_verdicts(store.folder, "filter", [verdict], {})
    after = chats(tmp_path / "out")
    assert sum(len(turns) for _, turns in before) - sum(len(turns) for _, turns in after) == 1


def test_vigs_own_answers_can_be_learnt_instead(tmp_path):
    finished(tmp_path / "out")
    answers = {c: chats(tmp_path / "out", choice=Choice(c)) for c in ("vig", "vic")}
    assert answers["vig"] != answers["vic"]
    assert [[t[0] for t in turns] for _, turns in answers["vig"]] == [
        [t[0] for t in turns] for _, turns in answers["vic"]
    ]


def test_of_generated_answers_the_best_are_drawn_by_weight_and_weak_questions_are_left_out(tmp_path):
    records = [
        {"image": "a.png", "question": "What?", "answer": ["cup", "mug", "jar"], "weight": [60, 30, 10]},
        {"image": "b.png", "question": "Who?", "answer": ["cat", "dog"], "weight": [15, 5]},
    ]
    file = tmp_path / "question_answer.json"
    file.write_text(json.dumps(records))
    table = read_records([open_instructions(file, choice=Choice(top_k=2, min_score=20))]).table
    assert table["answers"].to_pylist() == [["cup", "mug"]]
    assert table["weights"].to_pylist() == [pytest.approx([2 / 3, 1 / 3])]
    draw(tmp_path / "a.png", 0)
    (recipe,) = make_recipes("llava_lora", {})
    rows = MakeChatRows(None, None, recipe, load_pack(), 32, augmented=True)
    grouped = read_chats([open_instructions(file, choice=Choice(top_k=2, min_score=20))], max_turns=8).table
    drawn = [rows._row(grouped, 1, position) for position in range(300)]  # as in 300 epochs
    assert {row[1][0] for row in drawn} == {f"What?\n{SHORT}"}
    assert sum(row[2] == ["cup"] for row in drawn) / 300 == pytest.approx(2 / 3, abs=0.1)


def test_turns_of_one_conversation_keep_their_order_and_conversations_change_theirs(tmp_path):
    turns = [{"from": who, "value": text} for who, text in (("human", "<image>\nOne?"), ("gpt", "1"))]
    more = [{"from": who, "value": text} for who, text in (("human", "Two?"), ("gpt", "2"))]
    other = [{"from": who, "value": text} for who, text in (("human", "<image>\nAlone?"), ("gpt", "0"))]
    file = tmp_path / "conversation.json"
    picture = {"image": "a.png"}
    file.write_text(json.dumps([picture | {"conversations": turns + more}, picture | {"conversations": other}]))
    draw(tmp_path / "a.png", 0)
    table = read_chats([open_instructions(file)], max_turns=8).table
    (recipe,) = make_recipes("llava_lora", {})
    rows = MakeChatRows(None, None, recipe, load_pack(), 32, augmented=True)
    orders = {tuple(rows._row(table, 1, position)[1]) for position in range(20)}
    assert orders == {("One?", "Two?", "Alone?"), ("Alone?", "One?", "Two?")}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["embedded_not_there", "--out", "run"], "no such folder"),
        (["MODEL", "--data", "d.json"], "--out is missing"),
        (["MODEL", "--out", "run", "--answers", "both"], "--answers: there is no 'both'; use vic or vig"),
    ],
)
def test_wrong_use_of_finetune_is_one_line(vigc_here, tmp_path, arguments, told):
    result = vigc_here("finetune", *arguments, cwd=tmp_path)
    assert result.code == 2
    assert told in result.err
    assert result.err.count("\n") == 1


def command(base, data, out):
    small = ("batch_size=4", "micro_batch_size=2", "num_updates=10", "checkpoint_every=2", "precision=fp32")
    small = (*small, "trainable.lora.rank=4", "optimizer.peak=2e-3", "saved_as=float32", "optimizer.num_warmup=1")
    sets = [word for option in small for word in ("--set", option)]
    words = ["--data", str(data), "--out", str(out), "--cpus-per-worker", "1", *sets]
    return [sys.executable, "-m", "vigc.jobs.cli", "finetune", str(base), *words]


@pytest.fixture
def run(vigc_joined):
    """`vigc finetune` on the Ray of this session."""

    def finetune(*arguments):
        done = vigc_joined(*command(*arguments)[3:])
        assert done.code == 0, done.out + done.err

    return finetune


def test_a_llava_s_images_have_the_size_that_its_configuration_says(tmp_path):
    save_network(tiny_llava(load_pack(), seed=0), tmp_path / "base")
    found = find_model(str(tmp_path / "base"))
    assert (found.family, found.image_size, found.patch_size) == (Family.CHAT, 160, 16)


@pytest.fixture
def resumed(run, tmp_path):
    """The folder of a run that was killed half way and went on."""
    data = make_data(tmp_path / "data")
    save_network(tiny_llava(load_pack(), seed=0), tmp_path / "base")
    arguments = tmp_path / "base", data, tmp_path / "run"
    killed = start(*command(*arguments))
    wait_for_update(killed, tmp_path / "run", 3)
    kill_with_workers(killed)
    run(*arguments)
    return tmp_path / "run"


@pytest.mark.slow
def test_transformers_loads_what_a_run_leaves_that_was_killed_and_went_on(resumed):
    assert losses(resumed)[10] < losses(resumed)[1]  # the second run's, and the first one's
    model = AutoModelForImageTextToText.from_pretrained(resumed / "model")
    processor = AutoProcessor.from_pretrained(resumed / "model")
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is there?"}]}]
    text = processor.apply_chat_template(asked, add_generation_prompt=True)
    pixels = np.random.default_rng(0).integers(0, 255, (160, 160, 3), dtype=np.uint8)
    inputs = processor(images=pixels, text=text, return_tensors="pt")
    with torch.no_grad():
        assert model.generate(**inputs, max_new_tokens=3).shape[1] > inputs.input_ids.shape[1]


@pytest.mark.soak  # test_train.py has the same of `vigc train`, and what makes it so is shared
def test_a_run_that_was_killed_ends_like_one_that_was_not(run, resumed, tmp_path):
    run(tmp_path / "base", tmp_path / "data" / "images" / "detail.json", tmp_path / "calm")
    one, other = (folder / "weights" / "weights.safetensors" for folder in (resumed, tmp_path / "calm"))
    assert one.read_bytes() == other.read_bytes()
