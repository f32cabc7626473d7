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

from vigc.model.engines.attention import Attend, Attention, Prompts
from vigc.model.engines.slots import SlotCache
from vigc.model.network import Network


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
        self._norm, self._lm_head = model.norm.weight, network.language_model.lm_head
        self._embed = network.embed
        some = torch.zeros((), dtype=network.dtype, device=network.device)
        cos, sin = model.rotary_emb(some, torch.arange(length, device=network.device)[None])
        self._attention = Attention(config, cos[0], sin[0])
        act: Callable[[Tensor], Tensor] = model.layers[0].mlp.act_fn
        self._gated: Callable[[Tensor], Tensor] = partial(_gated, act)
        if network.device.type == "cuda" and network.dtype.itemsize == 2:
            from vigc.model.engines import kernels  # Triton is there where a GPU is

            self._attention = kernels.KernelAttention(config, cos[0], sin[0])
            if config.hidden_act == "silu":
                self._gated = kernels.silu_and_multiply

    def prefill(self, embeds: Tensor, prompts: Prompts, cache: SlotCache) -> Tensor:
        """Reads prompts, which lie one behind the other.

        Args:
            embeds: (tokens, width).
            cache: gets the keys and values, in the prompts' slots.
        Returns:
            (prompts, vocabulary), logits behind each.
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
        """(tokens, width) from the first layer to the last."""
        for number, layer in enumerate(self._layers):
            heads = functional.linear(self._normed(x, layer.norm), layer.qkv, layer.qkv_bias)
            mixed = attend(number, heads.unflatten(-1, (-1, self._attention.head_dim)))
            x = x + layer.out(mixed.flatten(1))
            x = x + layer.down(
                self._gated(functional.linear(self._normed(x, layer.ffn_norm), layer.gate_up, layer.gate_up_bias))
            )
        return x

    def _logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self._lm_head(self._normed(x, self._norm)).float()
        return logits

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, weight.shape, weight, self._eps)


def _gated(act: Callable[[Tensor], Tensor], gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return act(gate) * up


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
    """Weight and bias of several nn.Linear as one. On a GPU theirs become parts of it, for there is no room for two."""
    weight = torch.cat([linear.weight for linear in linears])
    if weight.is_cuda:
        parts = weight.split([len(linear.weight) for linear in linears])
        for linear, part in zip(linears, parts, strict=True):
            linear.weight.data = part
    return weight, None if linears[0].bias is None else torch.cat([linear.bias for linear in linears])
