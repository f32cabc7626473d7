"""The learning rate over a run, and the optimisers: AdamW as the paper's code sets it up (model/README.md, "Training"),
and Muon (Jordan et al. 2024) for the matrices of small models that learn from nothing, where it needs a fraction of the
updates.
"""

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


def make_optimizers(
    module: nn.Module, learning_rate: float, weight_decay: float, betas: tuple[float, float], muon: float
) -> list[torch.optim.Optimizer]:
    """AdamW alone, or, where `muon` is not 0, Muon for the matrices inside layers and AdamW for the rest.

    Each group's "share" is what its learning rate is multiplied with: `muon` in the one, 1 in the other.
    """
    matrices = [p for n, p in module.named_parameters() if p.requires_grad and p.ndim == 2 and ".layer" in n]
    if not muon or not matrices:
        optimizers: list[torch.optim.Optimizer] = [make_optimizer([module], learning_rate, weight_decay, betas)]
    else:
        under_muon = {id(p) for p in matrices}
        rest = nn.ParameterList(p for p in module.parameters() if p.requires_grad and id(p) not in under_muon)
        optimizers = [
            make_optimizer([rest], learning_rate, weight_decay, betas),
            torch.optim.Muon(
                matrices, lr=muon * learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
            ),
        ]
    for optimizer in optimizers:
        share = muon if isinstance(optimizer, torch.optim.Muon) else 1.0
        for group in optimizer.param_groups:
            group["share"] = share
    return optimizers


def set_learning_rate(optimizers: Iterable[torch.optim.Optimizer], learning_rate: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * group["share"]
