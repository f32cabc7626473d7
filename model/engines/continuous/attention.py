"""Attention of a language model whose keys and values lie in slots, in torch's own operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vigc.model.engines.continuous.cache import SlotCache

# Takes the number of a layer, and (tokens, heads + 2 x key-value heads, head_dim): queries, keys and values, which may
# be written to. Gives (tokens, heads, head_dim).
Attend = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class Prompts:
    """Prompts one behind the other, without padding, each with a slot of its own."""

    slots: Tensor  # (tokens,)
    positions: Tensor  # (tokens,)
    starts: Tensor  # (prompts + 1,), int32: the first token of each, and the end of the last
    longest: int  # tokens


class Attention:
    """How the tokens of prompts look at each other, and the newest tokens at their slots. All leave their keys and
    values in the cache.
    """

    def __init__(self, config: Any, cos: Tensor, sin: Tensor) -> None:
        """
        Args:
            config: of the language model.
            cos, sin: (length, head_dim), the rotary angles of each position.
        """
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = cos.shape[-1]
        half = self.head_dim // 2
        # The sign of the half that is turned about is put into the table.
        self._cos, self._sin = cos[:, None], torch.cat((-sin[:, :half], sin[:, half:]), dim=-1)[:, None]

    def prefill(self, prompts: Prompts, cache: SlotCache) -> Attend:
        """Attention of whole prompts: every token sees its prompt up to itself.

        Returns:
            See `Attend`; tokens are those of all prompts, one behind the other.
        """
        starts, longest = prompts.starts.long(), prompts.longest
        cos, sin = self._cos[prompts.positions], self._sin[prompts.positions]
        slots = prompts.slots[starts[:-1]]
        # Rows padded to the longest, and where their tokens lie in them; causal attention never looks at the padding.
        padded = (starts[:-1, None] + torch.arange(longest, device=starts.device)).clamp(max=len(prompts.slots) - 1)
        rows = torch.repeat_interleave(torch.arange(len(slots), device=starts.device), starts.diff())
        packed = rows * longest + prompts.positions

        def attend(layer: int, heads: Tensor) -> Tensor:
            q, k, v = (part[padded].transpose(1, 2) for part in self._turned(heads, cos, sin))
            cache.keys[layer][slots, :, :longest] = k
            cache.values[layer][slots, :, :longest] = v
            mixed = functional.scaled_dot_product_attention(
                q, k, v, is_causal=True, enable_gqa=self.heads != self.kv_heads
            )
            return mixed.transpose(1, 2).flatten(0, 1)[packed]

        return attend

    def step(self, active: int, cache: SlotCache, width: int) -> Attend:
        """The one new token of each of the first slots sees what its slot holds.

        Args:
            active: how many slots.
            width: more than any of their positions.
        Returns:
            See `Attend`; tokens are one for each of these slots.
        """
        positions = cache.positions[:active]
        slots = torch.arange(active, device=positions.device)
        visible = (torch.arange(width, device=positions.device) <= positions[:, None])[:, None, None]
        cos, sin = self._cos[positions], self._sin[positions]

        def attend(layer: int, heads: Tensor) -> Tensor:
            q, k, v = self._turned(heads, cos, sin)
            keys, values = cache.keys[layer, :active], cache.values[layer, :active]
            keys[slots, :, positions] = k
            values[slots, :, positions] = v
            return functional.scaled_dot_product_attention(
                q[:, :, None],
                keys[:, :, :width],
                values[:, :, :width],
                attn_mask=visible,
                enable_gqa=self.heads != self.kv_heads,
            )[:, :, 0]

        return attend

    def _turned(self, heads: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (tokens, …, head_dim); queries and keys are turned by their positions."""
        turning, v = heads.split([self.heads + self.kv_heads, self.kv_heads], dim=-2)
        left, right = turning.chunk(2, dim=-1)
        turned = torch.addcmul(turning * cos, torch.cat((right, left), dim=-1), sin)
        q, k = turned.split([self.heads, self.kv_heads], dim=-2)
        return q, k, v
