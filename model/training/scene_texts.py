"""Stage two of the embedded model: texts about scenes.

With the vision model frozen, the Q-Former, the projection and the language model learn VIG and VIC together, from the
same scenes in two wordings. An auxiliary loss asks the visual tokens what the prompt is about: for a question its
subjects, for a description all that is still to be listed, token by token and round again, the same for VIG and for
VIC; so the text decides what is looked for. Its heads are thrown away. The loss is a sum over texts, to be divided by
their number, so that any number of processes and micro-batches makes the same update.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from vigc.model.embedded.scene_rows import IGNORE, SUBJECT_LABELS
from vigc.model.network import Network, pad_right
from vigc.model.scenes.world import BACKGROUNDS, MAX_OBJECTS
from vigc.model.training.objective import Batch, Objective, Row
from vigc.model.training.trainable import set_modes

_GROUP = 32  # texts of like length that go through the network together, so that little of it is padding


@dataclass(frozen=True, slots=True)
class TextGroup:
    """Texts of like length, as tensors."""

    images: Tensor  # (texts,): index into the batch's images
    qformer_ids: Tensor  # (texts, length)
    qformer_mask: Tensor
    ids: Tensor  # (texts, length): prompt and target
    mask: Tensor
    wanted: Tensor  # (texts, length): the target's ids; elsewhere IGNORE
    subjects: Tensor  # (texts, MAX_OBJECTS, labels)
    counts: Tensor  # (texts,)
    background: Tensor  # (texts,)

    def to(self, device: Any) -> TextGroup:
        return TextGroup(*(getattr(self, name).to(device) for name in self.__slots__))


@dataclass(frozen=True)
class SceneTextBatch(Batch):
    """Images and all their texts."""

    pixels: Tensor  # (num_rows, size, size, 3), uint8
    groups: tuple[TextGroup, ...]
    num_rows: int
    num_counted: float
    num_tokens: int

    def to(self, device: Any) -> SceneTextBatch:
        return replace(self, pixels=self.pixels.to(device), groups=tuple(g.to(device) for g in self.groups))


class SceneTextObjective(Objective[SceneTextBatch]):
    """Everything but the vision model, with read-outs of the visual tokens. Rows are those of `make_text_row`."""

    def __init__(self, network: Network, *, auxiliary_weight: float = 0.5, autocast: torch.dtype | None = None) -> None:
        super().__init__(network)
        self._autocast = autocast
        self.auxiliary_weight = auxiliary_weight
        width = network.language_model.config.hidden_size
        # Token i says the subjects i, i + num_queries, …: few tokens hold more each.
        self.num_rounds = -(-MAX_OBJECTS // network.num_queries)
        self.subject = nn.Linear(width, self.num_rounds * sum(SUBJECT_LABELS.values()))
        self.count = nn.Linear(width, MAX_OBJECTS + 1)
        self.background = nn.Linear(width, len(BACKGROUNDS))
        self.set_modes()

    def set_modes(self) -> None:
        set_modes(self.network, gradient_checkpointing=False)

    def collate(self, rows: list[Row]) -> SceneTextBatch:
        texts = [(image, text) for image, row in enumerate(rows) for text in range(len(row["prompts"]))]
        texts.sort(key=lambda t: len(rows[t[0]]["prompts"][t[1]]) + len(rows[t[0]]["targets"][t[1]]))
        groups = tuple(self._group(rows, texts[start : start + _GROUP]) for start in range(0, len(texts), _GROUP))
        return SceneTextBatch(
            torch.from_numpy(np.stack([row["pixels"] for row in rows])),
            groups,
            num_rows=len(rows),
            num_counted=float(len(texts)),
            num_tokens=sum(int(g.mask.sum()) for g in groups),
        )

    def _group(self, rows: list[Row], texts: list[tuple[int, int]]) -> TextGroup:
        network, cpu = self.network, torch.device("cpu")

        def stacked(name: str) -> Tensor:
            return torch.from_numpy(np.stack([rows[image][name][text] for image, text in texts])).long()

        prompts = [network.prompt_ids(rows[image]["prompts"][text]) for image, text in texts]
        targets = [network.tokenizer(rows[i]["targets"][t], add_special_tokens=False).input_ids for i, t in texts]
        for (image, text), target in zip(texts, targets, strict=True):
            if rows[image]["ends"][text]:
                target.append(network.eos_id)
        ids, mask = pad_right([p + t for p, t in zip(prompts, targets, strict=True)], network.eos_id, cpu)
        wanted = torch.full_like(ids, IGNORE)
        for row, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
            wanted[row, len(prompt) : len(prompt) + len(target)] = torch.tensor(target)
        qformer_ids, qformer_mask = network.qformer_ids([rows[image]["prompts"][text] for image, text in texts])
        return TextGroup(
            images=torch.tensor([image for image, _ in texts]),
            qformer_ids=qformer_ids.to(cpu),
            qformer_mask=qformer_mask.to(cpu),
            ids=ids,
            mask=mask,
            wanted=wanted,
            subjects=stacked("subjects"),
            counts=stacked("counts"),
            background=torch.tensor([int(rows[image]["background"]) for image, _ in texts]),
        )

    def forward(self, batch: SceneTextBatch) -> tuple[Tensor, dict[str, float]]:
        """Losses summed over the texts, a float scalar, and what to watch: nats per target token, the auxiliary loss
        per text, and how often the first subject's category is right.
        """
        with torch.autocast(batch.pixels.device.type, dtype=self._autocast, enabled=self._autocast is not None):
            return self._forward(batch)

    def _forward(self, batch: SceneTextBatch) -> tuple[Tensor, dict[str, float]]:
        with torch.no_grad():
            features = self.network.encode_images(batch.pixels)
        total = torch.zeros((), device=features.device)
        nats = tokens = auxiliary = first_right = first_asked = 0.0
        for group in batch.groups:
            visual = self.network.visual_tokens(features[group.images], group.qformer_ids, group.qformer_mask)
            losses, text = self._language(visual, group)
            other, subjects = self._auxiliary(visual.float(), group)
            # A text weighs by the root of its length: descriptions more than short answers, but do not drown them.
            length = (group.wanted != IGNORE).sum(1).float()
            weights = length.rsqrt()[text]
            total = total + (losses * weights).sum() + self.auxiliary_weight * other.sum()
            asked = group.subjects[:, 0, 0] != IGNORE
            nats, tokens = nats + float(losses.detach().sum()), tokens + float(length.sum())
            auxiliary += float(other.detach().sum())
            first_right += float((subjects[:, 0] == group.subjects[:, 0, 0])[asked].sum())
            first_asked += float(asked.sum())
        metrics = {
            "words": nats / tokens,
            "auxiliary": auxiliary / batch.num_counted,
            "subjects_right": first_right / max(1.0, first_asked),
        }
        return total, metrics

    def _language(self, visual: Tensor, group: TextGroup) -> tuple[Tensor, Tensor]:
        """Cross-entropy of each target token, and the text it belongs to."""
        network = self.network
        embeds = torch.cat([visual, network.embed(group.ids).to(visual.dtype)], dim=1)
        mask = torch.cat(
            [torch.ones(visual.shape[:2], dtype=group.mask.dtype, device=visual.device), group.mask], dim=1
        )
        hidden = network.language_model.model(
            inputs_embeds=embeds, attention_mask=mask, use_cache=False
        ).last_hidden_state
        # The hidden state before a token predicts it; only those positions go through the vocabulary.
        before = hidden[:, visual.shape[1] - 1 : -1]
        chosen = group.wanted != IGNORE
        logits = network.language_model.lm_head(before[chosen])
        losses = functional.cross_entropy(logits.float(), group.wanted[chosen], reduction="none")
        return losses, chosen.nonzero()[:, 0]

    def _auxiliary(self, visual: Tensor, group: TextGroup) -> tuple[Tensor, Tensor]:
        """The auxiliary loss of each text, and the category that was read for each of its subjects."""
        batch, num_queries = visual.shape[:2]
        slots = self.subject(visual).view(batch, num_queries, self.num_rounds, -1).transpose(1, 2)
        parts = slots.reshape(batch, self.num_rounds * num_queries, -1)[:, :MAX_OBJECTS].split(
            list(SUBJECT_LABELS.values()), dim=-1
        )
        losses = torch.stack([_cross_entropy(p, group.subjects[..., i]) for i, p in enumerate(parts)]).sum(0)
        num_subjects = (group.subjects[..., 0] != IGNORE).sum(1).clamp(min=1)
        whole = _cross_entropy(self.count(visual[:, -1]), group.counts)
        whole = whole + _cross_entropy(self.background(visual[:, -1]), group.background)
        return losses.sum(1) * num_subjects.float().rsqrt() + whole, parts[0].argmax(-1)


def _cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    """Per element, 0 where there is nothing to say; the classes come last."""
    return functional.cross_entropy(logits.float().movedim(-1, 1), wanted, ignore_index=IGNORE, reduction="none")
