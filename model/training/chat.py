"""The loss on chats: a LLaVA-style model learns its own answers of a whole conversation about an image.

One row is an image with one or more questions and answers. They follow each other in one sequence, so the image's
tokens, which are most of it, are read once for all of them; what the model did not say itself does not count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vigc.model.llava.network import LlavaNetwork
from vigc.model.network import pad_right
from vigc.model.training.flops import matrix_weights, per_token
from vigc.model.training.instructions import IGNORE
from vigc.model.training.objective import Batch, Objective, Row
from vigc.model.training.trainable import set_modes

MAX_TOKENS = 2048  # of a sequence, the image's included; the rest of a longer conversation is not learnt


@dataclass
class ChatBatch(Batch):
    """Conversations about images, tokenised and padded on the right."""

    pixels: Tensor  # (num_rows, side, side, 3) uint8
    ids: Tensor  # (num_rows, length); the image's place is held by as many image tokens as it becomes
    mask: Tensor
    labels: Tensor  # ids where the model speaks, IGNORE elsewhere
    num_rows: int
    num_counted: float
    num_tokens: int
    num_unreadable: int = 0


def chat_ids(network: LlavaNetwork, turns: list[tuple[str, str]]) -> tuple[list[int], list[int]]:
    """Token ids of a conversation and its labels, at most MAX_TOKENS.

    The text is tokenised as a whole, as at inference; a token that begins in an answer belongs to it.
    """
    pieces = network.chat.pieces(turns)
    token = network.chat.image_token
    text, spoken = "", []
    for piece, is_answer in pieces:
        shown = piece.replace(token, token * network.num_image_tokens)
        if is_answer:
            spoken.append((len(text), len(text) + len(shown)))
        text += shown
    read = network.tokenizer(text, return_offsets_mapping=True)
    labels = []
    for number, (start, end) in zip(read.input_ids, read.offset_mapping, strict=True):
        # A word's token may begin with the blank before it, or just behind it, as the tokenizer sees it.
        said = end > start and any(first <= start < last for first, last in spoken)
        labels.append(number if said else IGNORE)
    return read.input_ids[:MAX_TOKENS], labels[:MAX_TOKENS]


class ChatObjective(Objective[ChatBatch]):
    """Learns to answer each question of a conversation, given the image and what was said before.

    Args:
        autocast: dtype of the arithmetic; None leaves it to the weights.
        gradient_checkpointing: recompute the language model's layers in the backward pass, to save memory.
    """

    def __init__(
        self, network: LlavaNetwork, *, autocast: torch.dtype | None = None, gradient_checkpointing: bool = False
    ) -> None:
        super().__init__(network)
        self._autocast, self._checkpointing = autocast, gradient_checkpointing
        self.set_modes()

    def set_modes(self) -> None:
        set_modes(self.network, gradient_checkpointing=self._checkpointing)

    def collate(self, rows: list[Row]) -> ChatBatch:
        """Rows with `pixels` (side, side, 3) uint8, `prompts` and `targets`: questions and as many answers. A row
        without any, whose image could not be read, goes through the model and counts nothing.
        """
        network: LlavaNetwork = self.network
        encoded = []
        for row in rows:
            turns = [(str(q), str(a)) for q, a in zip(row["prompts"], row["targets"], strict=True)]
            read, said = chat_ids(network, turns or [("", "")])
            encoded.append((read, said if turns else [IGNORE] * len(read)))
        cpu = torch.device("cpu")
        ids, mask = pad_right([read for read, _ in encoded], network.eos_id, cpu)
        labels = torch.full_like(ids, IGNORE)
        for number, (_, wanted) in enumerate(encoded):
            labels[number, : len(wanted)] = torch.tensor(wanted)
        num_readable = sum(len(row["prompts"]) > 0 for row in rows)
        return ChatBatch(
            pixels=torch.from_numpy(np.stack([row["pixels"] for row in rows])),
            ids=ids,
            mask=mask,
            labels=labels,
            num_rows=num_readable,
            num_unreadable=len(rows) - num_readable,
            num_counted=float((labels != IGNORE).sum()),
            num_tokens=int(mask.sum()),
        )

    def forward(self, batch: ChatBatch) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy in nats, summed over the labels that count; shapes are in `ChatBatch`."""
        model = self.network.model
        with torch.autocast(batch.ids.device.type, dtype=self._autocast, enabled=self._autocast is not None):
            hidden = model.model(
                input_ids=batch.ids,
                attention_mask=batch.mask,
                pixel_values=self.network.pixel_values(batch.pixels),
                use_cache=False,
            ).last_hidden_state
            # The hidden state before a token predicts it; only those positions go through the vocabulary.
            wanted = batch.labels[:, 1:]
            chosen = wanted != IGNORE
            logits = model.lm_head(hidden[:, :-1][chosen])
        return functional.cross_entropy(logits.float(), wanted[chosen], reduction="sum"), {}

    def flops(self, batch: ChatBatch) -> float:
        network: LlavaNetwork = self.network
        vision, projector, language = network.blocks
        patches = float(batch.pixels.shape[0] * (network.num_image_tokens + 1))
        tokens = float(batch.mask.sum())
        vision_trained = matrix_weights(vision, trained=True) > 0
        total = patches * (per_token(vision, vision_trained) + per_token(projector, vision_trained))
        total += tokens * per_token(language, True) + batch.num_counted * per_token(network.model.lm_head, True)
        text = network.model.config.text_config
        lengths = batch.mask.sum(1).double()
        # Scores and mixtures of causal attention: half of length² each, forward and twice backward.
        return total + 3 * 2 * float((lengths**2).sum()) * float(text.hidden_size * text.num_hidden_layers)

    def say(self, rows: list[Row]) -> list[str]:
        return [say(self.network, row) for row in rows]


@torch.no_grad()
def say(network: LlavaNetwork, row: Row, max_tokens: int = 96) -> str:
    """The greedy answer to the first prompt of a row (`pixels`, `prompts`)."""
    token = network.chat.image_token
    prompt = network.chat.prompt(str(row["prompts"][0])).replace(token, token * network.num_image_tokens)
    ids = torch.tensor([network.tokenizer(prompt).input_ids], device=network.device)
    out = network.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=network.pixel_values(torch.tensor(row["pixels"], device=network.device)[None]),
        max_new_tokens=max_tokens,
        do_sample=False,
        eos_token_id=network.eos_id,
        pad_token_id=network.eos_id,
    )
    return str(network.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)).strip()
