"""The key-value cache of all decode slots, allocated once.

Contexts are short (a few hundred tokens), so every slot has room for the longest. Occupied slots are the first ones: a
decode step reads one slice without copying, and whoever leaves is replaced by the last.
"""

from __future__ import annotations

import torch

from vigc.model.network import Network


class SlotCache:
    """Keys and values, each (layers, num_slots, heads, length, head_dim), and where each slot writes next."""

    def __init__(self, network: Network, num_slots: int, length: int) -> None:
        self.length = length
        shape = (num_slots, length)
        self.keys = torch.zeros(cache_shape(network, *shape), dtype=network.dtype, device=network.device)
        self.values = torch.zeros_like(self.keys)
        self.positions = torch.zeros(num_slots, dtype=torch.long, device=network.device)

    def move(self, sources: list[int], targets: list[int], length: int) -> None:
        """Slots take the place of others, of which nothing is kept. `length` bounds what the sources hold."""
        for tensor in (self.keys, self.values):
            tensor[:, targets, :, :length] = tensor[:, sources, :, :length]
        self.positions[targets] = self.positions[sources]


def cache_shape(network: Network, num_slots: int, length: int) -> tuple[int, int, int, int, int]:
    """Of the keys, and of the values."""
    config = network.language_model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return (config.num_hidden_layers, num_slots, config.num_key_value_heads, length, head_dim)
