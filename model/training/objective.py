"""What a training run minimises: rows in, a summed loss and what to divide it by out.

An objective is one module whose `forward` does everything that needs gradients, because DDP, FSDP and DeepSpeed hook
into that call. The loss is a sum and its count is known beforehand, so the same samples give the same update however
they are cut into micro-batches and spread over processes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import copy
from typing import Any, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from vigc.model.weights.trainable_model import TrainableModel

Row = Mapping[str, Any]  # one sample as it crosses Ray Data: numpy arrays of fixed shape, texts, numbers
MODEL = "model."  # prefix of the network's weights among an objective's parameters


class Batch:
    """Tensors of a few rows, on one device."""

    num_rows: int
    num_unreadable: int = 0  # rows beside those, whose image could not be read
    num_counted: float  # what the loss sum of these rows is divided by, e.g. target tokens
    num_tokens: int  # that go through the language model, or patches through the vision model: for rates

    def to(self, device: Any) -> Self:
        """The same with all its tensors on the device."""
        moved = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(moved, name, value.to(device, non_blocking=True))
        return moved


B = TypeVar("B", bound=Batch)


class Objective(nn.Module, ABC, Generic[B]):
    """A network with a loss, and heads of the loss's own that no checkpoint of the network holds."""

    def __init__(self, network: TrainableModel) -> None:
        super().__init__()
        self.network: Any = network  # of the architecture that the objective is for
        self.model: nn.Module = network.model

    @abstractmethod
    def collate(self, rows: list[Row]) -> B:
        """Rows to tensors on the CPU: tokenising, padding, stacking."""

    @abstractmethod
    def forward(self, batch: B) -> tuple[Tensor, dict[str, float]]:
        """The loss summed over the batch, a float scalar to be divided by `num_counted`, and metrics to look at."""

    def flops(self, batch: B) -> float:
        """Arithmetic of one update with this batch, forward and backward, recomputation not counted; 0: not known."""
        return 0.0

    def say(self, rows: list[Row]) -> list[str]:
        """Greedy answers to the first prompt of each row (`pixels`, `prompts`), for people to look at."""
        return [self._say(row) for row in rows]

    @torch.no_grad()
    def _say(self, row: Row, max_tokens: int = 96) -> str:
        network = self.network
        features = network.encode_images(torch.tensor(row["pixels"], device=network.device)[None])
        visual = network.visual_tokens(features, *network.qformer_ids([row["prompts"][0]]))
        prompt = torch.tensor([network.prompt_ids(row["prompts"][0])], device=network.device)
        embeds = torch.cat([visual, network.embed(prompt).to(visual.dtype)], dim=1)
        ids = network.language_model.generate(
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long, device=network.device),
            max_new_tokens=max_tokens,
            do_sample=False,
            bos_token_id=network.bos_id,
            eos_token_id=network.eos_id,
            pad_token_id=network.eos_id,
        )
        return str(network.tokenizer.decode(ids[0], skip_special_tokens=True)).strip()

    @abstractmethod
    def set_modes(self) -> None:
        """Puts each part into the mode it is trained in; called again after every evaluation."""

    def trained(self) -> dict[str, nn.Parameter]:
        """What training changes, by its name in the objective."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}
