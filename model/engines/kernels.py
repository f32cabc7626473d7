"""What a GPU would spend on many small operations, in a few kernels of our own (Triton).

A decode step has to read all weights, and the keys and values of all slots, and hardly computes: it is as fast as
memory if nothing else is read or launched. So one kernel turns queries and keys and files keys and values, and one
attends to exactly the positions that a slot holds.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vigc.model.engines.attention import Attend, Attention, Prompts
from vigc.model.engines.slots import SlotCache

_BLOCK = 64  # positions that are attended to at once
_WIDE = 1024  # numbers of a feed-forward layer that a program makes


class KernelAttention(Attention):
    """The same as its base, for 16-bit numbers on a GPU."""

    def prefill(self, prompts: Prompts, cache: SlotCache) -> Attend:
        def attend(layer: int, heads: Tensor) -> Tensor:
            keys, values = cache.keys[layer], cache.values[layer]
            turn_and_store(heads, self._cos, self._sin, prompts.positions, prompts.slots, keys, values)
            q, k, v = heads.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
            mixed: Tensor = torch.ops.aten._flash_attention_forward(
                q, k, v, prompts.starts, prompts.starts, prompts.longest, prompts.longest, 0.0, True, False
            )[0]
            return mixed

        return attend

    def step(self, active: int, cache: SlotCache, width: int) -> Attend:
        positions = cache.positions[:active]
        slots = torch.arange(active, device=positions.device)

        def attend(layer: int, heads: Tensor) -> Tensor:
            keys, values = cache.keys[layer], cache.values[layer]
            turn_and_store(heads, self._cos, self._sin, positions, slots, keys, values)
            return attend_to_slots(heads[:, : self.heads], keys, values, positions)

        return attend


def turn_and_store(
    heads: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, slots: Tensor, keys: Tensor, values: Tensor
) -> None:
    """Turns queries and keys by their positions, in place, and puts keys and values into their slots.

    Args:
        heads: (tokens, heads + 2 x key-value heads, head_dim), contiguous.
        cos, sin: (length, 1, head_dim) as `Attention` holds them.
        positions, slots: (tokens,), int64.
        keys, values: (slots, key-value heads, length, head_dim), of one layer.
    """
    tokens, all_heads, dim = heads.shape
    kv_heads, turning = keys.shape[1], all_heads - keys.shape[1]
    _turn_and_store[tokens,](
        heads,
        cos,
        sin,
        positions,
        slots,
        keys,
        values,
        keys.stride(0),
        keys.stride(1),
        turning - kv_heads,
        kv_heads,
        triton.next_power_of_2(turning),
        triton.next_power_of_2(kv_heads),
        dim // 2,
        triton.next_power_of_2(dim // 2),
    )


def attend_to_slots(q: Tensor, keys: Tensor, values: Tensor, positions: Tensor) -> Tensor:
    """What the queries of the first slots make of the values at positions up to theirs.

    Args:
        q: (active, heads, head_dim), head_dim contiguous.
        keys, values: (slots, key-value heads, length, head_dim).
        positions: (active,).
    Returns:
        (active, heads, head_dim).
    """
    active, heads, dim = q.shape
    mixed = torch.empty((active, heads, dim), dtype=q.dtype, device=q.device)
    _attend_to_slots[active, heads](
        q,
        keys,
        values,
        positions,
        mixed,
        q.stride(0),
        q.stride(1),
        keys.stride(0),
        keys.stride(1),
        dim**-0.5,
        heads // keys.shape[1],
        dim,
        triton.next_power_of_2(dim),
        _BLOCK,
    )
    return mixed


def silu_and_multiply(gate_up: Tensor) -> Tensor:
    """silu(gate) x up, (tokens, ffn), of (tokens, 2 x ffn), contiguous."""
    tokens, ffn = gate_up.shape[0], gate_up.shape[1] // 2
    product = torch.empty((tokens, ffn), dtype=gate_up.dtype, device=gate_up.device)
    _silu_and_multiply[tokens, triton.cdiv(ffn, _WIDE)](gate_up, product, ffn, _WIDE)
    return product


@triton.jit
def _turn_and_store(
    heads,
    cos,
    sin,
    positions,
    slots,
    keys,
    values,
    slot_stride,
    head_stride,
    num_q: tl.constexpr,
    num_kv: tl.constexpr,
    num_turning: tl.constexpr,  # a power of 2 of at least num_q + num_kv
    num_values: tl.constexpr,
    half: tl.constexpr,
    columns: tl.constexpr,  # a power of 2 of at least half
):
    token = tl.program_id(0).to(tl.int64)
    position, slot = tl.load(positions + token), tl.load(slots + token)
    column = tl.arange(0, columns)
    inside = column < half
    c = tl.load(cos + position * 2 * half + column, mask=inside, other=0.0).to(tl.float32)
    s = tl.load(sin + position * 2 * half + half + column, mask=inside, other=0.0).to(tl.float32)
    here = heads + token * (num_q + 2 * num_kv) * 2 * half

    head = tl.arange(0, num_turning)
    at = here + head[:, None] * 2 * half + column[None, :]
    valid = (head[:, None] < num_q + num_kv) & inside[None, :]
    left = tl.load(at, mask=valid, other=0.0).to(tl.float32)
    right = tl.load(at + half, mask=valid, other=0.0).to(tl.float32)
    turned_left = left * c[None, :] - right * s[None, :]
    turned_right = right * c[None, :] + left * s[None, :]
    tl.store(at, turned_left, mask=valid)
    tl.store(at + half, turned_right, mask=valid)
    is_key = valid & (head[:, None] >= num_q)
    cell = slot * slot_stride + position * 2 * half
    into = keys + cell + (head[:, None] - num_q) * head_stride + column[None, :]
    tl.store(into, turned_left, mask=is_key)
    tl.store(into + half, turned_right, mask=is_key)

    value = tl.arange(0, num_values)
    valid = (value[:, None] < num_kv) & inside[None, :]
    at = here + (num_q + num_kv + value[:, None]) * 2 * half + column[None, :]
    into = values + cell + value[:, None] * head_stride + column[None, :]
    tl.store(into, tl.load(at, mask=valid), mask=valid)
    tl.store(into + half, tl.load(at + half, mask=valid), mask=valid)


@triton.jit
def _attend_to_slots(
    queries,
    keys,
    values,
    positions,
    mixed,
    q_slot_stride,
    q_head_stride,
    slot_stride,
    head_stride,
    scale,
    group: tl.constexpr,  # query heads to a key-value head
    dim: tl.constexpr,
    columns: tl.constexpr,  # a power of 2 of at least dim
    block: tl.constexpr,
):
    slot, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    length = (tl.load(positions + slot) + 1).to(tl.int32)
    column = tl.arange(0, columns)
    inside = column < dim
    q = tl.load(queries + slot * q_slot_stride + head * q_head_stride + column, mask=inside, other=0.0)
    q = q.to(tl.float32) * scale
    start_of = slot * slot_stride + (head // group) * head_stride
    row = tl.arange(0, block)
    tile = row[:, None] * dim + column[None, :]
    most = float("-inf")
    total = 0.0
    sums = tl.zeros([columns], tl.float32)
    for begin in range(0, length, block):
        seen = begin + row < length
        valid = seen[:, None] & inside[None, :]
        k = tl.load(keys + start_of + begin * dim + tile, mask=valid, other=0.0).to(tl.float32)
        v = tl.load(values + start_of + begin * dim + tile, mask=valid, other=0.0).to(tl.float32)
        scores = tl.where(seen, tl.sum(k * q[None, :], 1), float("-inf"))
        newest = tl.maximum(most, tl.max(scores, 0))
        shrink = tl.exp(most - newest)
        weights = tl.exp(scores - newest)
        total = total * shrink + tl.sum(weights, 0)
        sums = sums * shrink + tl.sum(v * weights[:, None], 0)
        most = newest
    into = mixed + (slot * tl.num_programs(1) + head) * dim + column
    tl.store(into, sums / total, mask=inside)


@triton.jit
def _silu_and_multiply(gate_up, product, ffn, wide: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * wide + tl.arange(0, wide)
    inside = column < ffn
    gate = tl.load(gate_up + token * 2 * ffn + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + token * 2 * ffn + ffn + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(product + token * ffn + column, gate / (1 + tl.exp(-gate)) * up, mask=inside)
