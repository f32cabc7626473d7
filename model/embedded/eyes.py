"""Stage one of the embedded model: eyes.

The vision transformer alone learns to say, for each patch, what lies there: category, colour, size and the object's
cell, and for the whole picture its background. The heads are thrown away afterwards. Without this stage the language
loss has to teach seeing through a whole network, and at this size it does not. The loss is a sum over scenes, to be
divided by their number, so that any number of processes and micro-batches makes the same update.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from vigc.model.embedded.rows import EMPTY, IGNORE, PATCH_LABELS, Row
from vigc.model.network import Network
from vigc.model.scenes.world import BACKGROUNDS

_EMPTY_WEIGHT = 0.2  # most patches are empty


@dataclass(frozen=True, slots=True)
class EyesBatch:
    """Rows as tensors: pixels uint8 (batch, size, size, 3), labels int64 (batch, num_patches), background (batch,)."""

    pixels: Tensor
    labels: dict[str, Tensor]
    background: Tensor

    @property
    def num_rows(self) -> int:
        return len(self.pixels)

    @property
    def num_counted(self) -> float:
        return float(len(self.pixels))

    @property
    def num_tokens(self) -> int:
        return self.labels["category"].numel()

    def to(self, device: Any) -> EyesBatch:
        labels = {name: label.to(device) for name, label in self.labels.items()}
        return EyesBatch(self.pixels.to(device), labels, self.background.to(device))


class EyesObjective(nn.Module):
    """The vision model with linear read-outs of every patch token, and of the class token for the background. Rows are
    those of `make_eyes_row`.
    """

    def __init__(self, network: Network, *, autocast: torch.dtype | None = None) -> None:
        super().__init__()
        self.network = network
        self._autocast = autocast
        self.model: Any = network.model
        self.model.requires_grad_(False)
        self.model.vision_model.requires_grad_(True)
        width = self.model.config.vision_config.hidden_size
        self.patch = nn.Linear(width, sum(PATCH_LABELS.values()))
        self.background = nn.Linear(width, len(BACKGROUNDS))

    def set_modes(self) -> None:
        self.model.eval()
        self.model.vision_model.train()

    def collate(self, rows: list[Row]) -> EyesBatch:
        def stacked(name: str) -> Tensor:
            return torch.from_numpy(np.stack([row[name] for row in rows]))

        labels = {name: stacked(name).long() for name in PATCH_LABELS}
        return EyesBatch(stacked("pixels"), labels, stacked("background").long())

    def forward(self, batch: EyesBatch) -> tuple[Tensor, dict[str, float]]:
        """Losses summed over the scenes, and the accuracy of each head (of the categories: on patches that hold
        something).
        """
        with torch.autocast(batch.pixels.device.type, dtype=self._autocast, enabled=self._autocast is not None):
            features = self.network.encode_images(batch.pixels)
            background, patches = self.background(features[:, 0]).float(), self.patch(features[:, 1:]).float()
        total = functional.cross_entropy(background, batch.background, reduction="sum")
        figures = {"background": float((background.argmax(-1) == batch.background).float().mean())}
        weight = torch.ones(EMPTY + 1, device=features.device)
        weight[EMPTY] = _EMPTY_WEIGHT
        parts = patches.split(list(PATCH_LABELS.values()), dim=-1)
        for name, logits in zip(PATCH_LABELS, parts, strict=True):
            wanted = batch.labels[name]
            weights = weight[wanted] if name == "category" else (wanted != IGNORE).float()
            losses = functional.cross_entropy(logits.transpose(1, 2), wanted, ignore_index=IGNORE, reduction="none")
            # Each scene weighs the same, however much lies in it.
            total = total + ((losses * weights).sum(1) / weights.sum(1)).sum()
            counted = (wanted != IGNORE) & (wanted != EMPTY) if name == "category" else wanted != IGNORE
            figures[name] = float((logits.argmax(-1) == wanted)[counted].float().mean())
        return total, figures
