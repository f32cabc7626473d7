"""Chats about scenes: their texts, and the loss on them."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from vigc.model.embedded.scene_rows import TextMixture, make_chat_row
from vigc.model.llava.tiny import tiny_llava
from vigc.model.prompts import CHAT, load_pack
from vigc.model.training.scene_chat import SceneChatObjective

PACK = load_pack(CHAT)
MIXTURE = TextMixture(num_questions=3, num_presence=2)


def rows(num: int, image_size: int = 16) -> list:
    return [make_chat_row(5, index, image_size=image_size, pack=PACK, mixture=MIXTURE) for index in range(num)]


def test_a_begun_answer_goes_on_in_the_answer_or_is_told_in_the_prompt() -> None:
    texts = [text for row in rows(30) for text in zip(row["prompts"], row["begun"], row["targets"], strict=True)]
    told = [prompt for prompt, begun, _ in texts if "The answer begins like this:" in prompt and not begun]
    begun = [begun for _, begun, _ in texts if begun]
    assert min(len(told), len(begun)) > 10
    assert all(target.startswith(" ") for *_, target in texts)
    yes_or_no = [target for prompt, _, target in texts if "yes or no only" in prompt]
    assert {" yes", " no"} == set(yes_or_no)
    assert len(yes_or_no) == 60


def test_the_loss_is_that_of_each_text_read_on_its_own() -> None:
    network = tiny_llava(load_pack(), seed=0)
    objective = SceneChatObjective(network)
    objective.eval()
    made = rows(2, network.image_size)
    batch = objective.collate(made)
    with torch.inference_mode():
        together, _ = objective(batch)
        apart = 0.0
        for row in made:
            pixels = network.pixel_values(torch.tensor(row["pixels"])[None])
            for prompt, begun, target, ends in zip(
                *(row[name] for name in ("prompts", "begun", "targets", "ends")), strict=True
            ):
                read = network.chat.prompt(prompt).replace("<image>", "<image>" * network.num_image_tokens) + begun
                said = network.tokenizer(target, add_special_tokens=False).input_ids + [network.eos_id] * int(ends)
                ids = torch.tensor([[*network.tokenizer(read).input_ids, *said]])
                logits = network.model(input_ids=ids, pixel_values=pixels).logits[0, -len(said) - 1 : -1]
                apart += float(functional.cross_entropy(logits, torch.tensor(said), reduction="sum")) / len(said) ** 0.5
    assert batch.num_counted == 2 * MIXTURE.num_texts
    assert float(together) == pytest.approx(apart, rel=1e-5)
