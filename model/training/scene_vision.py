"""Stage one of the embedded model: vision.

The vision transformer alone learns to say, for each patch, what lies there: category, colour, size and the object's
cell, and for the whole image its background. The heads are thrown away afterwards. Without this stage the language
loss has to teach seeing through a whole network, and at this size it does not. The loss is a sum over scenes, to be
divided by their number, so that any number of processes and micro-batches makes the same update.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from vigc.model.embedded.scene_rows import EMPTY, IGNORE, PATCH_LABELS
from vigc.model.network import Network
from vigc.model.scenes.world import BACKGROUNDS
from vigc.model.training.objective import Batch, Objective, Row
from vigc.model.training.trainable import set_modes

_EMPTY_WEIGHT = 0.2  # most patches are empty


@dataclass(frozen=True)
class SceneVisionBatch(Batch):
    """Rows as tensors."""

    pixels: Tensor  # (num_rows, size, size, 3), uint8
    labels: dict[str, Tensor]  # each of PATCH_LABELS, (num_rows, num_patches), int64
    background: Tensor  # (num_rows,), int64
    num_rows: int
    num_counted: float
    num_tokens: int

    def to(self, device: Any) -> SceneVisionBatch:
        labels = {name: label.to(device) for name, label in self.labels.items()}
        return replace(self, pixels=self.pixels.to(device), labels=labels, background=self.background.to(device))


class SceneVisionObjective(Objective[SceneVisionBatch]):
    """The vision model with linear read-outs of every patch token, and of the class token for the background. Rows are
    those of `make_vision_row`.
    """

    def __init__(self, network: Network, *, autocast: torch.dtype | None = None) -> None:
        super().__init__(network)
        self._autocast = autocast
        width = network.model.config.vision_config.hidden_size
        self.patch = nn.Linear(width, sum(PATCH_LABELS.values()))
        self.background = nn.Linear(width, len(BACKGROUNDS))
        self.set_modes()

    def set_modes(self) -> None:
        set_modes(self.network, gradient_checkpointing=False)

    def collate(self, rows: list[Row]) -> SceneVisionBatch:
        def stacked(name: str) -> Tensor:
            return torch.from_numpy(np.stack([row[name] for row in rows]))

        labels = {name: stacked(name).long() for name in PATCH_LABELS}
        pixels, background = stacked("pixels"), stacked("background").long()
        return SceneVisionBatch(
            pixels,
            labels,
            background,
            num_rows=len(rows),
            num_counted=float(len(rows)),
            num_tokens=labels["category"].numel(),
        )

    def forward(self, batch: SceneVisionBatch) -> tuple[Tensor, dict[str, float]]:
        """Losses summed over the scenes, a float scalar, and the accuracy of each head (of the categories: on patches
        that hold something).
        """
        with torch.autocast(batch.pixels.device.type, dtype=self._autocast, enabled=self._autocast is not None):
            features = self.network.encode_images(batch.pixels)
            background, patches = self.background(features[:, 0]).float(), self.patch(features[:, 1:]).float()
        total = functional.cross_entropy(background, batch.background, reduction="sum")
        metrics = {"background": float((background.argmax(-1) == batch.background).float().mean())}
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
            metrics[name] = float((logits.argmax(-1) == wanted)[counted].float().mean())
        return total, metrics
