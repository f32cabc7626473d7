"""The shipped weights do what the README says, and the code that made them still learns."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
import torch

from vigc.model import embedded
from vigc.model.conversation import make_policy
from vigc.model.embedded.evaluate import generate, held_out_scenes, parse_rate, score_descriptions, score_questions
from vigc.model.embedded.language import LanguageRecipe
from vigc.model.embedded.loss import Sample, language_loss
from vigc.model.embedded.shape import make_config, make_model
from vigc.model.embedded.train import train
from vigc.model.embedded.vision import VisionRecipe, patch_labels, pretrain_vision
from vigc.model.engines import ContinuousEngine
from vigc.model.network import Network, load_network
from vigc.model.prompts import load_pack
from vigc.model.scenes import Split, make_scene
from vigc.model.scenes.world import CATEGORIES
from vigc.model.training import IGNORE, Schedule, make_optimizer
from vigc.platform.records import Kind

PACK, PAPER = load_pack(), make_policy("paper")


def test_the_weights_are_small_enough_to_ship() -> None:
    assert sum(f.stat().st_size for f in embedded.PATH.rglob("*") if f.is_file()) <= 24 * 2**20


@pytest.mark.slow
def test_gold_questions_are_answered_far_above_chance(continuous: ContinuousEngine) -> None:
    topics = asyncio.run(score_questions(continuous, PACK, PAPER, held_out_scenes(150, seed=41)))
    overall = sum(t.accuracy * t.num_questions for t in topics) / sum(t.num_questions for t in topics)
    assert overall >= 0.7
    by_topic = {t.topic: t for t in topics}
    for topic in ("existence", "left or right"):
        score = by_topic[topic]
        assert score.accuracy > max(score.chance, score.majority) + 0.1, score


@pytest.mark.slow
def test_generated_questions_parse_and_vary_and_descriptions_name_what_is_there(continuous: ContinuousEngine) -> None:
    scenes = held_out_scenes(100, seed=43)
    made = asyncio.run(generate(continuous, PACK, PAPER, scenes, list(Kind)))
    assert parse_rate(made) >= 0.99
    detail = [row[list(Kind).index(Kind.DETAIL)] for row in made]
    score = score_descriptions(scenes, [c.answer for c in detail])
    assert score.recall > 0.5
    assert score.chair_s < 0.5
    questions = Counter(row[list(Kind).index(Kind.CONVERSATION)].question for row in made)
    assert len(questions) >= 10


def test_counting_absent_objects_is_worked_out_by_hand() -> None:
    scenes = [make_scene(Split.TRAIN, 1, i) for i in range(2)]
    there = [sorted({o.category for o in s.objects}) for s in scenes]
    absent = next(c for c in CATEGORIES if c not in there[0])
    texts = [f"A {' and a '.join([*there[0], absent])}.", "Nothing at all."]
    score = score_descriptions(scenes, texts)
    assert score.chair_s == 0.5
    assert score.chair_i == 1 / (len(there[0]) + 1)
    assert score.recall == len(there[0]) / (len(there[0]) + len(there[1]))


def test_the_loss_counts_target_tokens_only(network: Network) -> None:
    features = network.encode_images(torch.zeros(1, network.image_size, network.image_size, 3, dtype=torch.uint8))
    prompt, target = "What color is the car?", " The car is red."
    short, _ = language_loss(network, features, [Sample(0, prompt, target)])
    padded, _ = language_loss(network, features, [Sample(0, prompt, target), Sample(0, prompt, target)])
    assert torch.allclose(short, padded, atol=1e-5)
    other, _ = language_loss(network, features, [Sample(0, prompt, " Umbrella umbrella red red red.")])
    assert other > 2 * short
    # By hand: the mean over target and end mark of what the network gives each of them.
    ids = [*network.prompt_ids(prompt + target), network.eos_id]
    visual = network.visual_tokens(features, *network.qformer_ids([prompt]))
    embeds = torch.cat([visual, network.embed(torch.tensor([ids]))], dim=1)
    logits = network.language_model(inputs_embeds=embeds).logits[0, visual.shape[1] - 1 : -1].log_softmax(-1)
    num_target = len(ids) - len(network.prompt_ids(prompt))
    expected = -logits[torch.arange(len(ids)), torch.tensor(ids)][-num_target:].mean()
    assert torch.allclose(short, expected, atol=1e-4)


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


def test_patch_labels_name_what_covers_the_patch() -> None:
    scene = make_scene(Split.TRAIN, 9, 4)
    labels = patch_labels(scene)
    for thing in scene.objects:
        covered = labels["cell"] == thing.cell
        assert covered.any()
        assert (labels["category"][covered] == CATEGORIES.index(thing.category)).all()
    assert (labels["colour"][labels["category"] == len(CATEGORIES)] == IGNORE).all()


@pytest.mark.slow
def test_the_eyes_learn_from_the_first_steps(network: Network) -> None:
    torch.manual_seed(0)
    fresh = make_model(make_config(len(network.tokenizer), len(network.tokenizer), 3, 1, 2, 0)).vision_model
    losses: list[float] = []
    pretrain_vision(fresh, VisionRecipe(num_steps=50, batch_size=8), lambda step, f: losses.append(f["loss"]))
    assert losses[-1] < 7.5  # about 9.5 before the first step


@pytest.mark.slow
def test_training_goes_through_both_stages_and_leaves_a_model_that_loads(tmp_path: Path) -> None:
    stages: list[str] = []

    def report(stage: str):  # type: ignore[no-untyped-def]
        stages.append(stage)
        return lambda step, figures: None

    train(tmp_path, VisionRecipe(num_steps=2, batch_size=2), LanguageRecipe(num_steps=2, num_scenes=1), report)
    made = load_network(tmp_path, device="cpu")
    assert stages == ["eyes", "words"]
    assert len(made.tokenizer) <= 1024
    text = " Question: Where is the umbrella? Answer: The umbrella is at the top left of the picture."
    assert made.tokenizer.decode(made.tokenizer(text, add_special_tokens=False).input_ids) == text
