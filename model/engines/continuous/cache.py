"""The key-value cache of all decode slots, allocated once.

Contexts are short (a few hundred tokens), so every slot has room for the longest. A decode step reads the first slots
as one slice, without copying: whoever leaves makes a gap, which the next prompt fills.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vigc.model.network import Network


class SlotCache:
    """Keys and values, each (layers, num_slots, heads, length, head_dim); where each slot writes next, and 1 for each
    that is occupied. One that is not stays at position 0.
    """

    def __init__(self, network: Network, num_slots: int, length: int) -> None:
        self.length = length
        shape = (num_slots, length)
        self.keys = torch.zeros(cache_shape(network, *shape), dtype=network.dtype, device=network.device)
        self.values = torch.zeros_like(self.keys)
        self.positions = torch.zeros(num_slots, dtype=torch.long, device=network.device)
        self.occupied = torch.zeros_like(self.positions)

    def occupy(self, slots: Tensor, positions: Tensor) -> None:
        """Marks slots as occupied; `positions` says where each writes next. Both (slots,), int64."""
        self.positions[slots] = positions
        self.occupied.index_fill_(0, slots, 1)

    def free(self, slots: Tensor) -> None:
        """Marks slots, (slots,), as free."""
        self.positions.index_fill_(0, slots, 0)
        self.occupied.index_fill_(0, slots, 0)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` positions of one slot into another."""
        for tensor in (self.keys, self.values):
            tensor[:, target, :, :length] = tensor[:, source, :, :length]


def cache_shape(network: Network, num_slots: int, length: int) -> tuple[int, int, int, int, int]:
    """(layers, num_slots, key-value heads, length, head_dim): of the keys, and of the values."""
    config = network.language_model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return (config.num_hidden_layers, num_slots, config.num_key_value_heads, length, head_dim)
