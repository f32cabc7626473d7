"""The loss on image-text data: cross-entropy of the answer's tokens, given image and prompt.

Prompt, visual and padding positions do not count. Prompt and target are tokenised apart, and the target ends with the
end mark (model/README.md, Q8). One row is an image with one or more texts; the image is encoded once for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vigc.model.network import Network, pad_right
from vigc.model.training.flops import text_flops
from vigc.model.training.objective import Batch, Objective, Row
from vigc.model.training.trainable import set_modes

IGNORE = -100  # label of positions that do not count
# What the language model reads of the prompt and learns of the target (model/README.md, Q7): the newest of the one, the
# beginning of the other.
MAX_PROMPT_TOKENS, MAX_TARGET_TOKENS = 128, 256


@dataclass
class TextBatch(Batch):
    """Texts about images, tokenised and padded on the right."""

    pixels: Tensor  # (num_images, side, side, 3) uint8
    image: Tensor  # (num_texts,) index of each text's image
    qformer_ids: Tensor  # (num_texts, length)
    qformer_mask: Tensor
    ids: Tensor  # (num_texts, length) prompt, target and end mark
    mask: Tensor
    labels: Tensor  # ids where they count, IGNORE elsewhere
    num_rows: int
    num_counted: float
    num_tokens: int
    num_unreadable: int = 0

    def groups(self, size: int) -> Iterator[TextBatch]:
        """At most `size` texts each, of like length, without the padding that only longer ones need."""
        order = self.mask.sum(1).argsort(stable=True)
        for part in order.split(size):
            length, read = int(self.mask[part].sum(1).max()), int(self.qformer_mask[part].sum(1).max())
            yield replace(
                self,
                image=self.image[part],
                qformer_ids=self.qformer_ids[part, :read],
                qformer_mask=self.qformer_mask[part, :read],
                ids=self.ids[part, :length],
                mask=self.mask[part, :length],
                labels=self.labels[part, :length],
            )


def collate_texts(network: Network, rows: list[Row]) -> TextBatch:
    """Rows with `pixels` (side, side, 3) uint8, `prompts` and `targets` (as many texts each) to tensors on the CPU.

    A row without texts, whose image could not be read, becomes a text without a target: it counts nothing, and goes
    through the model all the same. Sharded weights (FSDP, ZeRO 3) are gathered by all processes together, so each has
    to call every layer equally often, also where nothing in a micro-batch was readable.
    """
    prompts: list[str] = []
    targets: list[str | None] = []
    images = []
    for number, row in enumerate(rows):
        texts = [*zip(row["prompts"], row["targets"], strict=True)] or [("", None)]
        prompts += [str(prompt) for prompt, _ in texts]
        targets += [None if target is None else str(target) for _, target in texts]
        images += [number] * len(texts)
    num_readable = sum(len(row["prompts"]) > 0 for row in rows)
    qformer_rows = [network.qformer_row(prompt) for prompt in prompts]
    read: list[list[int]] = []
    learnt: list[list[int]] = []
    for prompt, target in zip(prompts, targets, strict=True):
        start, *words = network.prompt_ids(prompt)
        read.append([start, *words[-MAX_PROMPT_TOKENS:]])
        learnt.append([] if target is None else _target_ids(network, target))
    cpu = torch.device("cpu")
    qformer_ids, qformer_mask = pad_right(qformer_rows, int(network.qformer_tokenizer.pad_token_id), cpu)
    ids, mask = pad_right([r + t for r, t in zip(read, learnt, strict=True)], network.eos_id, cpu)
    labels = torch.full_like(ids, IGNORE)
    for number, (before, after) in enumerate(zip(read, learnt, strict=True)):
        labels[number, len(before) : len(before) + len(after)] = torch.tensor(after, dtype=torch.long)
    return TextBatch(
        pixels=torch.from_numpy(np.stack([row["pixels"] for row in rows])),
        image=torch.tensor(images, dtype=torch.long),
        qformer_ids=qformer_ids,
        qformer_mask=qformer_mask,
        ids=ids,
        mask=mask,
        labels=labels,
        num_rows=num_readable,
        num_unreadable=len(rows) - num_readable,
        num_counted=float(sum(len(t) for t in learnt)),
        num_tokens=sum(len(r) + len(t) for r, t in zip(read, learnt, strict=True)) + len(read) * network.num_queries,
    )


def _target_ids(network: Network, target: str) -> list[int]:
    return [*network.tokenizer(target, add_special_tokens=False).input_ids[: MAX_TARGET_TOKENS - 1], network.eos_id]


def text_loss(network: Network, features: Tensor, texts: TextBatch) -> tuple[Tensor, Tensor]:
    """Cross-entropy summed over the labels of a group of texts.

    Args:
        features: (num_images, num_patches + 1, vision_width) from `Network.encode_images`.
    Returns:
        the sum, and the visual tokens (num_texts, num_queries, language_width), for losses of one's own.
    """
    visual = network.visual_tokens(features[texts.image], texts.qformer_ids, texts.qformer_mask)
    embeds = torch.cat([visual, network.embed(texts.ids).to(visual.dtype)], dim=1)
    seen = torch.ones(visual.shape[:2], dtype=texts.mask.dtype, device=texts.mask.device)
    hidden = network.language_model.model(
        inputs_embeds=embeds, attention_mask=torch.cat([seen, texts.mask], dim=1), use_cache=False
    ).last_hidden_state
    # The hidden state before a token predicts it; only those positions go through the vocabulary.
    chosen = texts.labels != IGNORE
    logits = network.language_model.lm_head(hidden[:, visual.shape[1] - 1 : -1][chosen])
    return functional.cross_entropy(logits.float(), texts.labels[chosen], reduction="sum"), visual


class InstructionObjective(Objective[TextBatch]):
    """Learns to give each text's target after its prompt.

    Args:
        group_size: texts that go through the language model together.
        autocast: dtype of the arithmetic; None leaves it to the weights.
        gradient_checkpointing: recompute the language model's layers in the backward pass, to save memory.
    """

    def __init__(
        self,
        network: Network,
        *,
        group_size: int = 32,
        autocast: torch.dtype | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__(network)
        self._group_size, self._autocast, self._checkpointing = group_size, autocast, gradient_checkpointing
        self.set_modes()

    def set_modes(self) -> None:
        set_modes(self.network, gradient_checkpointing=self._checkpointing)

    def flops(self, batch: TextBatch) -> float:
        return text_flops(self.network, batch)

    def collate(self, rows: list[Row]) -> TextBatch:
        return collate_texts(self.network, rows)

    def forward(self, batch: TextBatch) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy in nats, summed over the labels that count; shapes are in `TextBatch`."""
        total = torch.zeros((), device=batch.ids.device)
        with torch.autocast(batch.ids.device.type, dtype=self._autocast, enabled=self._autocast is not None):
            # Where the vision model is frozen, nothing in it asks for a gradient, and no graph is kept.
            features = self.network.encode_images(batch.pixels)
            for group in batch.groups(self._group_size):
                total = total + text_loss(self.network, features, group)[0]
        return total, {}
