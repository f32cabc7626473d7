"""The loss on chats about scenes: a LLaVA-style model learns VIG, VIC and yes-or-no questions from exact annotations.

An image is read once for all its texts: the keys and values of its tokens are the beginning of each. The texts do not
see each other, so what one says must be in the picture and not in another text. The loss is a sum over texts, to be
divided by their number.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from vigc.model.llava.network import LlavaNetwork
from vigc.model.network import pad_right
from vigc.model.training.chat import say
from vigc.model.training.instructions import IGNORE
from vigc.model.training.objective import Batch, Objective, Row
from vigc.model.training.trainable import set_modes
from vigc.platform.records import ModelError

_GROUP = 32  # texts of like length that go through the language model together, so that little of it is padding


@dataclass(frozen=True, slots=True)
class ChatGroup:
    """Texts of like length, as tensors."""

    images: Tensor  # (texts,): index into the batch's images
    ids: Tensor  # (texts, length): what is asked, and the answer
    mask: Tensor  # (texts, length)
    wanted: Tensor  # (texts, length): ids where the model speaks; elsewhere IGNORE

    def to(self, device: Any) -> ChatGroup:
        return ChatGroup(*(getattr(self, name).to(device) for name in self.__slots__))


@dataclass(frozen=True)
class SceneChatBatch(Batch):
    """Images and all their texts."""

    pixels: Tensor  # (num_rows, size, size, 3), uint8
    beginning: Tensor  # (tokens,): of every text, to the last of the image's tokens
    groups: tuple[ChatGroup, ...]
    num_rows: int
    num_counted: float
    num_tokens: int

    def to(self, device: Any) -> SceneChatBatch:
        groups = tuple(group.to(device) for group in self.groups)
        return replace(self, pixels=self.pixels.to(device), beginning=self.beginning.to(device), groups=groups)


class SceneChatObjective(Objective[SceneChatBatch]):
    """Rows are those of `make_chat_row`."""

    def __init__(self, network: LlavaNetwork, *, autocast: torch.dtype | None = None) -> None:
        super().__init__(network)
        self._autocast = autocast
        self.set_modes()

    def set_modes(self) -> None:
        set_modes(self.network, gradient_checkpointing=False)

    def collate(self, rows: list[Row]) -> SceneChatBatch:
        """Raises ModelError where the chat template puts something of the question before the image."""
        texts = [
            (image, *self._ids(row, text)) for image, row in enumerate(rows) for text in range(len(row["prompts"]))
        ]
        beginnings = {text[1] for text in texts}
        if len(beginnings) > 1:
            raise ModelError(f"{self.network.name}: its chat template shows the question before the image.")
        texts.sort(key=lambda text: len(text[2]))
        groups = tuple(self._group(texts[start : start + _GROUP]) for start in range(0, len(texts), _GROUP))
        beginning = torch.tensor(beginnings.pop())
        return SceneChatBatch(
            torch.from_numpy(np.stack([row["pixels"] for row in rows])),
            beginning,
            groups,
            num_rows=len(rows),
            num_counted=float(len(texts)),
            num_tokens=len(rows) * len(beginning) + sum(int(group.mask.sum()) for group in groups),
        )

    def _ids(self, row: Row, text: int) -> tuple[tuple[int, ...], list[int], int]:
        """Token ids of one text to the image's last, those behind it, and how many of these, at the end, the model
        says.
        """
        network: LlavaNetwork = self.network
        token = network.chat.image_token
        read = network.chat.prompt(str(row["prompts"][text])).replace(token, token * network.num_image_tokens)
        ids = network.tokenizer(read + str(row["begun"][text])).input_ids
        end = len(ids) - ids[::-1].index(network.image_token_id)
        target = network.tokenizer(str(row["targets"][text]), add_special_tokens=False).input_ids
        said = [*target, network.eos_id] if row["ends"][text] else target
        return tuple(ids[:end]), [*ids[end:], *said], len(said)

    def _group(self, texts: list[tuple[int, tuple[int, ...], list[int], int]]) -> ChatGroup:
        ids, mask = pad_right([ids for *_, ids, _ in texts], self.network.eos_id, torch.device("cpu"))
        wanted = torch.full_like(ids, IGNORE)
        for place, (*_, whole, num_said) in enumerate(texts):
            wanted[place, len(whole) - num_said : len(whole)] = torch.tensor(whole[-num_said:])
        return ChatGroup(torch.tensor([image for image, *_ in texts]), ids, mask, wanted)

    def forward(self, batch: SceneChatBatch) -> tuple[Tensor, dict[str, float]]:
        """Losses summed over the texts, a float scalar, and nats per token that the model says."""
        with torch.autocast(batch.pixels.device.type, dtype=self._autocast, enabled=self._autocast is not None):
            return self._forward(batch)

    def _forward(self, batch: SceneChatBatch) -> tuple[Tensor, dict[str, float]]:
        model, language_model = self.network.model, self.network.language_model
        images = self._read_images(batch)
        total = torch.zeros((), device=batch.pixels.device)
        nats = tokens = 0.0
        for group in batch.groups:
            seen = group.mask.new_ones(len(group.ids), len(batch.beginning))
            hidden = language_model(
                input_ids=group.ids,
                attention_mask=torch.cat([seen, group.mask], dim=1),
                past_key_values=DynamicCache([(key[group.images], value[group.images]) for key, value in images]),
            ).last_hidden_state
            # The hidden state before a token predicts it; only those positions go through the vocabulary.
            wanted = group.wanted[:, 1:]
            chosen = wanted != IGNORE
            logits = model.lm_head(hidden[:, :-1][chosen])
            losses = functional.cross_entropy(logits.float(), wanted[chosen], reduction="none")
            # A text weighs by the root of its length: descriptions more than short answers, but do not drown them.
            length = chosen.sum(1).float()
            total = total + (losses * length.rsqrt()[chosen.nonzero()[:, 0]]).sum()
            nats, tokens = nats + float(losses.detach().sum()), tokens + float(length.sum())
        return total, {"words": nats / tokens}

    def _read_images(self, batch: SceneChatBatch) -> list[tuple[Tensor, Tensor]]:
        """Keys and values, each (num_rows, heads, tokens, head_width), of every layer."""
        network = self.network
        features = network.model.model.get_image_features(network.pixel_values(batch.pixels)).pooler_output
        visual = torch.stack(list(features))  # (num_rows, num_image_tokens, width)
        ids = batch.beginning.expand(len(visual), -1)
        embeds = network.language_model.get_input_embeddings()(ids).to(visual.dtype)
        embeds = embeds.masked_scatter((ids == network.image_token_id).unsqueeze(-1), visual)
        cache = network.language_model(inputs_embeds=embeds, use_cache=True).past_key_values
        return [(layer.keys, layer.values) for layer in cache.layers]

    def say(self, rows: list[Row]) -> list[str]:
        return [say(self.network, row) for row in rows]
