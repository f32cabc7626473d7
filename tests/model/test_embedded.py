"""The shipped weights do what the README says, and the code that made them still learns."""

from __future__ import annotations

import asyncio

import pytest
import torch
from bench_embedded import Change, compare, largest_opening, parse_rate, score_descriptions

from vigc.model import embedded
from vigc.model.benchmarks.embedded import generate, held_out_scenes, score_questions
from vigc.model.conversation.policy import make_policy
from vigc.model.engines.continuous.engine import ContinuousEngine
from vigc.model.prompts import load_pack
from vigc.model.scenes import Split, make_scene
from vigc.model.scenes.world import CATEGORIES
from vigc.model.training.schedule import Schedule, make_optimizer
from vigc.platform.records import Kind

PACK, PAPER = load_pack(), make_policy("paper")


def test_the_weights_are_small_enough_to_ship() -> None:
    assert sum(f.stat().st_size for f in embedded.PATH.rglob("*") if f.is_file()) <= 24 * 2**20


@pytest.mark.slow
@pytest.mark.parametrize("debiased", [False, True])
def test_gold_questions_are_answered(continuous: ContinuousEngine, debiased: bool) -> None:
    topics = asyncio.run(score_questions(continuous, PACK, PAPER, held_out_scenes(80, seed=41, debiased=debiased)))
    assert sum(t.accuracy * t.num_questions for t in topics) / sum(t.num_questions for t in topics) >= 0.93
    assert min(t.accuracy for t in topics) >= 0.75
    assert all(t.accuracy > t.majority + 0.2 for t in topics)


@pytest.mark.slow
def test_generated_questions_parse_and_vary(continuous: ContinuousEngine) -> None:
    made = asyncio.run(generate(continuous, PACK, PAPER, held_out_scenes(100, seed=43), list(Kind)))
    assert parse_rate(made) >= 0.995
    questions = [row[list(Kind).index(Kind.CONVERSATION)].question for row in made]
    assert len(set(questions)) >= 40
    assert largest_opening(questions) <= 0.3


def test_vic_names_fewer_absent_objects_than_vig_and_more_of_those_present(continuous: ContinuousEngine) -> None:
    scenes = held_out_scenes(50, seed=47, debiased=True, hard=True)
    (made,) = zip(*asyncio.run(generate(continuous, PACK, PAPER, scenes, [Kind.DETAIL])), strict=True)
    before, after = [c.vig_answer for c in made], [c.answer for c in made]
    vig, vic = score_descriptions(scenes, before), score_descriptions(scenes, after)
    assert vic.chair_s < vig.chair_s / 2
    assert vic.recall > vig.recall
    assert abs(vic.length - vig.length) < 0.1 * vig.length
    assert compare(scenes, before, after).p_value < 0.01


def test_counting_absent_objects_is_worked_out_by_hand() -> None:
    scenes = [make_scene(Split.TRAIN, 1, i) for i in range(2)]
    there = [sorted({o.category for o in s.objects}) for s in scenes]
    absent = next(c for c in CATEGORIES if c not in there[0])
    texts = [f"A {' and a '.join([*there[0], absent])}.", "Nothing at all."]
    score = score_descriptions(scenes, texts)
    assert score.chair_s == 0.5
    assert score.chair_i == 1 / (len(there[0]) + 1)
    assert score.recall == len(there[0]) / (len(there[0]) + len(there[1]))


def test_descriptions_are_compared_scene_by_scene() -> None:
    scenes = [make_scene(Split.TRAIN, 1, i) for i in range(4)]
    absent = [next(c for c in CATEGORIES if not s.count(c)) for s in scenes]
    wrong = [f"There is a {c}." for c in absent]
    right = ["There is nothing."] * 4
    assert compare(scenes, [*wrong[:2], *right[2:]], [right[0], *wrong[1:3], right[3]]) == Change(fixed=1, broken=1)


def test_the_paired_test_is_the_exact_one() -> None:
    assert Change(5, 0).p_value == 2 / 32
    assert Change(3, 1).p_value == 2 * (1 + 4) / 16
    assert Change(4, 4).p_value == Change(0, 0).p_value == 1.0
    assert Change(40, 12).p_value == Change(12, 40).p_value < 0.001


def test_the_commonest_opening_is_two_words_whatever_their_case() -> None:
    assert largest_opening(["How many cars?", "how many boats?", "How big is it?", "Where is it?"]) == 0.5


def test_easy_and_hard_scenes_are_told_apart_by_their_number_of_objects() -> None:
    assert {len(s.objects) <= 5 for s in held_out_scenes(50, 1)} == {True}
    assert {6 <= len(s.objects) <= 12 for s in held_out_scenes(50, 1, hard=True)} == {True}


def test_the_schedule_warms_up_and_ends_at_the_floor() -> None:
    schedule = Schedule(peak=1.0, floor=0.1, num_steps=100, num_warmup=10)
    assert schedule.at(0) == 0.1
    assert schedule.at(9) == 1.0
    assert schedule.at(55) == pytest.approx(0.55)
    assert schedule.at(100) == pytest.approx(0.1)


def test_the_optimizer_decays_matrices_and_leaves_frozen_parts_out() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3), torch.nn.Linear(3, 3))
    module[2].requires_grad_(False)
    decayed, kept = make_optimizer([module], 1e-3).param_groups
    assert (len(decayed["params"]), decayed["weight_decay"]) == (1, 0.05)
    assert (len(kept["params"]), kept["weight_decay"]) == (3, 0.0)
