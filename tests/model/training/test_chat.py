"""LLaVA-style models: chats as the processor shows them, learning, adapters, folders."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from vigc.model.llava import load_llava
from vigc.model.llava.chat import LLAVA_V1, ChatTemplate
from vigc.model.llava.tiny import tiny_llava
from vigc.model.network import load_network
from vigc.model.prompts import load_pack
from vigc.model.scenes import Split, make_scene, render
from vigc.model.scenes.wording import CONVERSATION, ask
from vigc.model.training.chat import MAX_TOKENS, ChatObjective, chat_ids
from vigc.model.training.instructions import IGNORE
from vigc.model.training.objective import MODEL
from vigc.model.training.schedule import make_optimizer
from vigc.model.training.trainable import Trainable, set_trainable
from vigc.model.weights.adapters import Lora
from vigc.model.weights.checkpoints import About, merge, save_trained
from vigc.model.weights.model_folders import base_hash, save_network
from vigc.platform.records import ConfigError, ModelError

TURNS = [("What color is the car?", "The car is red."), ("How many objects are there?", "There are two.")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("llava") / "tiny"
    save_network(tiny_llava(load_pack(), seed=0), place)
    return place


@pytest.fixture
def network(folder):
    return load_llava(folder, device="cpu")


def make_rows(num=4, size=160):
    rows = []
    for index in range(num):
        scene, rng = make_scene(Split.TRAIN, 6, index, min_objects=2), random.Random(index)
        asked = [qa for topic in list(CONVERSATION)[:3] if (qa := ask(scene, topic, rng)) is not None]
        rows.append(
            {
                "pixels": np.asarray(render(scene, size)),
                "prompts": [qa.question for qa in asked],
                "targets": [qa.answer for qa in asked],
            }
        )
    return rows


def test_the_model_learns_from_exactly_what_the_processor_shows_it_at_inference(folder, network):
    processor = AutoProcessor.from_pretrained(folder)
    question = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": TURNS[0][0]}]}
    prompt = processor.apply_chat_template([question], add_generation_prompt=True)
    picture = make_rows(1)[0]["pixels"]
    shown = processor(images=picture, text=prompt, return_tensors="pt")
    ids, labels = chat_ids(network, TURNS)
    length = shown.input_ids.shape[1]
    assert ids[:length] == shown.input_ids[0].tolist()
    assert labels[:length] == [IGNORE] * length
    ours = network.pixel_values(torch.tensor(picture)[None])
    assert torch.allclose(shown.pixel_values, ours, atol=1e-5)


def test_only_answers_count_and_each_ends_with_the_end_mark(network):
    ids, labels = chat_ids(network, TURNS)
    said = network.tokenizer.decode([label for label in labels if label != IGNORE])
    assert said == " The car is red.</s> There are two.</s>"
    assert all(label in (IGNORE, number) for label, number in zip(labels, ids, strict=True))
    long, _ = chat_ids(network, [("What is there?", "A car. " * 2000)])
    assert len(long) == MAX_TOKENS


def test_a_folder_without_a_template_is_spoken_to_as_llava_is(network):
    chat = ChatTemplate(LLAVA_V1, "<image>", "</s>", network.tokenizer, "llava")
    shown = "".join(piece for piece, _ in chat.pieces(TURNS))
    assert shown == (
        "USER: <image>\nWhat color is the car? ASSISTANT: The car is red.</s>"
        "USER: How many objects are there? ASSISTANT: There are two.</s>"
    )


def test_a_template_that_tells_a_conversation_otherwise_each_time_is_refused(network):
    chat = ChatTemplate("{{ messages | length }}", "<image>", "</s>", network.tokenizer, "odd")
    with pytest.raises(ModelError, match="odd: its chat template"):
        chat.pieces(TURNS)


def test_the_eyes_see_what_the_embedded_models_see(network):
    from vigc.model.embedded import PATH

    embedded = load_network(PATH, device="cpu", dtype="float32")
    pixels = torch.tensor(np.stack([row["pixels"] for row in make_rows()]))
    with torch.no_grad():
        wanted, found = embedded.encode_images(pixels)[:, 1:], network.encode_images(pixels)
    assert float(torch.cosine_similarity(wanted, found, dim=-1).mean()) > 0.99


@pytest.fixture
def one_thread():
    """Products this small only wait for each other on several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_loss_falls_on_a_few_pictures_and_then_the_model_says_their_answers(network, one_thread):
    torch.manual_seed(0)
    set_trainable(network, Trainable(qformer=False, language_model=True))
    objective = ChatObjective(network)
    optimizer = make_optimizer([objective], 2e-3)
    rows = [{**row, "prompts": row["prompts"][:1], "targets": row["targets"][:1]} for row in make_rows(2)]
    batch = objective.collate(rows)
    losses = []
    for _ in range(25):
        loss = objective(batch)[0] / batch.num_counted
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.05 * losses[0]
    objective.eval()
    assert objective.say(rows) == [row["targets"][0] for row in rows]


def test_a_row_that_could_not_be_read_changes_nothing(network):
    objective = ChatObjective(network)
    objective.eval()
    rows = make_rows(2)
    unreadable = {"pixels": np.zeros_like(rows[0]["pixels"]), "prompts": [], "targets": []}
    with torch.no_grad():
        alone, beside = (objective(objective.collate(some))[0] for some in (rows, [*rows, unreadable]))
    assert float(alone) == pytest.approx(float(beside), rel=1e-5)
    batch = objective.collate([unreadable])
    assert (batch.num_rows, batch.num_unreadable, batch.num_counted) == (0, 1, 0.0)


def test_adapters_that_are_merged_say_what_they_said_beside_the_weights(folder, network, tmp_path):
    wanted = Trainable(qformer=False, lora=Lora(targets=("q_proj", "down_proj")))
    names = set_trainable(network, wanted)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.02)
    objective = ChatObjective(network)
    objective.eval()
    trained = {name.removeprefix(MODEL): tensor for name, tensor in objective.trained().items()}
    assert sorted(trained) == sorted(names)
    about = About(str(folder), base_hash(folder), wanted.beginnings(network), "test", 1, lora=wanted.lora)
    save_trained(tmp_path / "weights", trained, about)
    merge(load_llava(folder, device="cpu"), tmp_path / "weights", tmp_path / "full")
    merged = load_llava(tmp_path / "full", device="cpu")
    rows = make_rows()
    losses = []
    with torch.no_grad():
        for one in (network, merged, load_llava(folder, device="cpu")):
            measured = ChatObjective(one)
            measured.eval()
            losses.append(float(measured(measured.collate(rows))[0]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert abs(losses[2] - losses[1]) > 1e-3 * losses[1]
    AutoModelForImageTextToText.from_pretrained(tmp_path / "full")
    AutoProcessor.from_pretrained(tmp_path / "full")


def test_what_a_llava_model_has_not_cannot_be_trained(network):
    with pytest.raises(ConfigError, match="has no qformer, only projection, vision, language_model"):
        set_trainable(network, Trainable())
