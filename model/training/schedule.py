"""The learning rate over a run, and the optimiser: AdamW as the paper's code sets it up (facts §1.6)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class Schedule:
    """Linear warm-up from `start` to `peak`, then cosine to `floor` at `num_steps`; steps are updates."""

    peak: float
    floor: float
    num_steps: int
    num_warmup: int
    start: float = 0.0

    def at(self, step: int) -> float:
        if step < self.num_warmup:
            return self.start + (self.peak - self.start) * (step + 1) / self.num_warmup
        progress = min(1.0, (step - self.num_warmup) / max(1, self.num_steps - self.num_warmup))
        return self.floor + (self.peak - self.floor) * (1 + math.cos(math.pi * progress)) / 2

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = self.at(step)


def make_optimizer(
    modules: Iterable[nn.Module],
    learning_rate: float,
    weight_decay: float = 0.05,
    betas: tuple[float, float] = (0.9, 0.98),
) -> torch.optim.AdamW:
    """AdamW over what is trainable and nothing else, so frozen weights carry no state; biases, norms and other vectors
    are not decayed.
    """
    trainable = [p for module in modules for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate, betas=betas)
