"""What a GPU would spend on many small operations, in a few kernels of our own (Triton).

A decode step has to read all weights, and the keys and values of all slots, and hardly computes: it is as fast as
memory if nothing else is read or launched. So one kernel turns queries and keys, files keys and values, and attends to
exactly the positions that a slot holds.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vigc.model.engines.continuous.attention import Attend, Attention, Prompts
from vigc.model.engines.continuous.cache import SlotCache

_BLOCK, _WARPS = 16, 1  # positions that are attended to at once, and the warps of a program that does
_WIDE = 1024  # numbers of a feed-forward layer that a program makes
_READ = 4096  # logits of a row that are looked at together


class KernelAttention(Attention):
    """The same as its base, shapes included, for 16-bit numbers on a GPU."""

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

        def attend(layer: int, heads: Tensor) -> Tensor:
            return attend_to_slots(heads, self._cos, self._sin, positions, cache.keys[layer], cache.values[layer])

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


def attend_to_slots(heads: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """What the newest token of each of the first slots makes of the values at its position and before; its own keys and
    values are put there.

    Args:
        heads: (active, heads + 2 x key-value heads, head_dim), contiguous.
        cos, sin: (length, 1, head_dim) as `Attention` holds them.
        positions: (active,), where each writes.
        keys, values: (slots, key-value heads, length, head_dim), of one layer.
    Returns:
        (active, heads, head_dim).
    """
    active, all_heads, dim = heads.shape
    kv_heads = keys.shape[1]
    num_q = all_heads - 2 * kv_heads
    mixed = torch.empty((active, num_q, dim), dtype=heads.dtype, device=heads.device)
    _attend_to_slots[active, num_q](
        heads,
        cos,
        sin,
        positions,
        keys,
        values,
        mixed,
        keys.stride(0),
        keys.stride(1),
        dim**-0.5,
        num_q,
        kv_heads,
        dim,
        triton.next_power_of_2(dim),
        _BLOCK,
        num_warps=_WARPS,
    )
    return mixed


def add_and_norm(x: Tensor, y: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x += y, (tokens, width) each and contiguous, and the root-mean-square norm of that."""
    normed = torch.empty_like(x)
    columns = triton.next_power_of_2(x.shape[1])
    _add_and_norm[len(x),](x, y, weight, normed, x.shape[1], eps, columns, num_warps=max(1, min(8, columns // 512)))
    return normed


def greedy(logits: Tensor) -> tuple[Tensor, Tensor]:
    """As `sampler.greedy`, of (batch, vocabulary), whose rows are contiguous: tokens and their log-probabilities."""
    tokens = torch.empty(len(logits), dtype=torch.long, device=logits.device)
    logprobs = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    _greedy[len(logits),](logits, tokens, logprobs, logits.shape[1], logits.stride(0), _READ, num_warps=8)
    return tokens, logprobs


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
    heads,
    cos,
    sin,
    positions,
    keys,
    values,
    mixed,
    slot_stride,
    head_stride,
    scale,
    num_q: tl.constexpr,
    num_kv: tl.constexpr,
    dim: tl.constexpr,
    columns: tl.constexpr,  # a power of 2 of at least dim
    block: tl.constexpr,
):
    slot, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    own = head * num_kv // num_q  # the head of its keys and values
    position = tl.load(positions + slot).to(tl.int32)
    column = tl.arange(0, columns)
    inside = column < dim
    other = (column + dim // 2) % dim  # the half that it is turned with; the table holds the sign
    c = tl.load(cos + position * dim + column, mask=inside, other=0.0).to(tl.float32)
    s = tl.load(sin + position * dim + column, mask=inside, other=0.0).to(tl.float32)
    here = heads + slot * (num_q + 2 * num_kv) * dim
    at = here + head * dim
    q = tl.load(at + column, mask=inside, other=0.0).to(tl.float32) * c
    q = (q + tl.load(at + other, mask=inside, other=0.0).to(tl.float32) * s) * scale
    at = here + (num_q + own) * dim
    new_k = tl.load(at + column, mask=inside, other=0.0).to(tl.float32) * c
    new_k = (new_k + tl.load(at + other, mask=inside, other=0.0).to(tl.float32) * s).to(keys.dtype.element_ty)
    new_v = tl.load(at + num_kv * dim + column, mask=inside, other=0.0)
    start = slot * slot_stride + own * head_stride
    # Heads that share them write the same.
    tl.store(keys + start + position * dim + column, new_k, mask=inside)
    tl.store(values + start + position * dim + column, new_v, mask=inside)

    most = tl.sum(q * new_k.to(tl.float32), 0)
    total = 1.0
    sums = new_v.to(tl.float32)
    row = tl.arange(0, block)
    tile = row[:, None] * dim + column[None, :]
    for begin in range(0, position, block):
        before = begin + row < position
        valid = before[:, None] & inside[None, :]
        k = tl.load(keys + start + begin * dim + tile, mask=valid, other=0.0).to(tl.float32)
        v = tl.load(values + start + begin * dim + tile, mask=valid, other=0.0).to(tl.float32)
        scores = tl.where(before, tl.sum(k * q[None, :], 1), float("-inf"))
        newest = tl.maximum(most, tl.max(scores, 0))
        shrink = tl.exp(most - newest)
        weights = tl.exp(scores - newest)
        total = total * shrink + tl.sum(weights, 0)
        sums = sums * shrink + tl.sum(v * weights[:, None], 0)
        most = newest
    tl.store(mixed + (slot * num_q + head) * dim + column, sums / total, mask=inside)


@triton.jit
def _silu_and_multiply(gate_up, product, ffn, wide: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * wide + tl.arange(0, wide)
    inside = column < ffn
    gate = tl.load(gate_up + token * 2 * ffn + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + token * 2 * ffn + ffn + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(product + token * ffn + column, gate / (1 + tl.exp(-gate)) * up, mask=inside)


@triton.jit
def _add_and_norm(x, y, weight, normed, width, eps, columns: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, columns)
    inside = column < width
    at = token * width + column
    both = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) + tl.load(y + at, mask=inside, other=0.0).to(
        tl.float32
    )
    both = both.to(x.dtype.element_ty)
    tl.store(x + at, both, mask=inside)
    both = both.to(tl.float32)
    scale = tl.rsqrt(tl.sum(both * both, 0) / width + eps)
    tl.store(normed + at, both * scale * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32), mask=inside)


@triton.jit
def _greedy(logits, tokens, logprobs, size, stride, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, block)
    best, at, total = -3.0e38, tl.zeros([], tl.int64), 0.0  # not -inf, which is as far from itself as nan
    for begin in range(0, size, block):
        part = tl.load(logits + row * stride + begin + column, mask=begin + column < size, other=float("-inf"))
        part = part.to(tl.float32)
        found = tl.max(part, 0)
        higher = tl.maximum(best, found)
        total = total * tl.exp(best - higher) + tl.sum(tl.exp(part - higher), 0)
        at = tl.where(found > best, (begin + tl.argmax(part, 0)).to(tl.int64), at)
        best = higher
    tl.store(tokens + row, at)
    tl.store(logprobs + row, -tl.log(total))
