"""The language model in the few operations that an engine needs.

A step of a small model, or of any model on a fast GPU, takes longer between the operations of transformers' modules
than in them. Here queries, keys and values are one product, and so are gate and up; the rotary angles are a table;
prompts lie one behind the other, without padding; keys and values go straight into their slots. The weights are the
same, and the numbers up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vigc.model.engines.continuous.attention import Attend, Attention, Prompts
from vigc.model.engines.continuous.cache import SlotCache
from vigc.model.network import Network

_ALIGNED = 64  # rows of a vocabulary


@dataclass(frozen=True)
class _Layer:
    norm: Tensor  # (width,)
    qkv: Tensor  # ((heads + 2 x key-value heads) x head_dim, width)
    qkv_bias: Tensor | None
    out: Any  # nn.Linear
    ffn_norm: Tensor
    gate_up: Tensor  # (2 x ffn, width)
    gate_up_bias: Tensor | None
    down: Any  # nn.Linear


class Decoder:
    """Llama, for prompts of up to `length` positions."""

    def __init__(self, network: Network, length: int) -> None:
        config, model = network.language_model.config, network.language_model.model
        self._eps = float(config.rms_norm_eps)
        self._layers = [_layer(layer) for layer in model.layers]
        self._norm, self._vocab_size = model.norm.weight, int(config.vocab_size)
        self._naming = _naming(network.language_model.lm_head)
        self._embed = network.embed
        some = torch.zeros((), dtype=network.dtype, device=network.device)
        cos, sin = model.rotary_emb(some, torch.arange(length, device=network.device)[None])
        self._attention = Attention(config, cos[0], sin[0])
        act: Callable[[Tensor], Tensor] = model.layers[0].mlp.act_fn
        self._gated: Callable[[Tensor], Tensor] = partial(_gated, act)
        self._add_and_norm: Callable[[Tensor, Tensor, Tensor, float], Tensor] = _add_and_norm
        if network.device.type == "cuda" and network.dtype.itemsize == 2:
            from vigc.model.engines.continuous import kernels

            self._attention = kernels.KernelAttention(config, cos[0], sin[0])
            self._add_and_norm = kernels.add_and_norm
            if config.hidden_act == "silu":
                self._gated = kernels.silu_and_multiply

    def prefill(self, embeds: Tensor, prompts: Prompts, cache: SlotCache) -> Tensor:
        """Reads prompts, which lie one behind the other.

        Args:
            embeds: (tokens, width), which are written to.
            cache: gets the keys and values, in the prompts' slots.
        Returns:
            (prompts, vocabulary), logits behind each, in the network's precision.
        """
        x = self._through(embeds, self._attention.prefill(prompts, cache))
        return self._logits(x[prompts.starts[1:].long() - 1])

    def step(self, tokens: Tensor, cache: SlotCache, width: int) -> Tensor:
        """Reads one token in each of the first slots and moves the positions of those that are occupied on.

        Args:
            tokens: (active,).
            width: more than any of their positions.
        Returns:
            (active, vocabulary).
        """
        active = len(tokens)
        x = self._through(self._embed(tokens), self._attention.step(active, cache, width))
        cache.positions[:active] += cache.occupied[:active]
        return self._logits(x)

    def _through(self, x: Tensor, attend: Attend) -> Tensor:
        """(tokens, width) through all layers, and normed; `x` is written to."""
        normed = functional.rms_norm(x, self._norm.shape, self._layers[0].norm, self._eps)
        next_norms = [*(layer.norm for layer in self._layers[1:]), self._norm]
        for number, (layer, next_norm) in enumerate(zip(self._layers, next_norms, strict=True)):
            heads = functional.linear(normed, layer.qkv, layer.qkv_bias)
            mixed = attend(number, heads.unflatten(-1, (-1, self._attention.head_dim)))
            normed = self._add_and_norm(x, layer.out(mixed.flatten(1)), layer.ffn_norm, self._eps)
            gate_up = functional.linear(normed, layer.gate_up, layer.gate_up_bias)
            normed = self._add_and_norm(x, layer.down(self._gated(gate_up)), next_norm, self._eps)
        return normed

    def _logits(self, normed: Tensor) -> Tensor:
        return functional.linear(normed, self._naming)[:, : self._vocab_size]


def _add_and_norm(x: Tensor, y: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x += y, and that normed."""
    x += y
    return functional.rms_norm(x, weight.shape, weight, eps)


def _gated(act: Callable[[Tensor], Tensor], gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return act(gate) * up


def _naming(lm_head: Any) -> Tensor:
    """Its weight, (vocabulary, width). On a GPU with rows of zeros up to a multiple of 64: products with the 32,001 of
    InstructBLIP take nine times as long.
    """
    weight: Tensor = lm_head.weight
    if weight.is_cuda and len(weight) % _ALIGNED:
        size = len(weight)
        weight = functional.pad(weight, (0, 0, 0, -size % _ALIGNED))
        lm_head.weight.data = weight[:size]
    return weight


def _layer(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    qkv, qkv_bias = fused(attention.q_proj, attention.k_proj, attention.v_proj)
    gate_up, gate_up_bias = fused(mlp.gate_proj, mlp.up_proj)
    return _Layer(
        norm=layer.input_layernorm.weight,
        qkv=qkv,
        qkv_bias=qkv_bias,
        out=attention.o_proj,
        ffn_norm=layer.post_attention_layernorm.weight,
        gate_up=gate_up,
        gate_up_bias=gate_up_bias,
        down=mlp.down_proj,
    )


def fused(*linears: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of several nn.Linear as one: (sum of their outputs, inputs), and (sum of their outputs,) or None.
    On a GPU theirs become parts of it, for there is no room for two.
    """
    weight = torch.cat([linear.weight for linear in linears])
    if weight.is_cuda:
        parts = weight.split([len(linear.weight) for linear in linears])
        for linear, part in zip(linears, parts, strict=True):
            linear.weight.data = part
    return weight, None if linears[0].bias is None else torch.cat([linear.bias for linear in linears])
