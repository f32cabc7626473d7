"""The language model in the few operations that an engine needs.

A step of a small model, or of any model on a fast GPU, takes longer between the operations of transformers' modules
than in them. Here queries, keys and values are one product, and so are gate and up; the rotary angles are a table; keys
and values go straight into their slots. The weights are the same, and the numbers up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

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
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._head_dim = getattr(config, "head_dim", None) or config.hidden_size // self._heads
        self._eps = float(config.rms_norm_eps)
        self._act: Callable[[Tensor], Tensor] = model.layers[0].mlp.act_fn
        self._layers = [_layer(layer) for layer in model.layers]
        self._norm, self._lm_head = model.norm.weight, network.language_model.lm_head
        self._embed = network.embed
        some = torch.zeros((), dtype=network.dtype, device=network.device)
        cos, sin = model.rotary_emb(some, torch.arange(length, device=network.device)[None])
        half = self._head_dim // 2
        # (length, 1, head_dim); the sign of the rotated half is put into the table.
        self._cos, self._sin = cos[0, :, None], torch.cat((-sin[0, :, None, :half], sin[0, :, None, half:]), dim=-1)

    def prefill(self, embeds: Tensor, last: Tensor, cache: SlotCache, first: int, rows: Tensor | None) -> Tensor:
        """Reads prompts, padded on the right: causal attention looks left only, so no row sees its padding.

        Args:
            embeds: (batch, length, width).
            last: (batch,), the position of each prompt's last token.
            cache: gets the keys and values, in the slots from `first` on.
            rows: which prompt each of these slots gets; None: each gets its own.
        Returns:
            (batch, vocabulary), logits behind each prompt.
        """
        length = embeds.shape[1]
        x, cos, sin = embeds, self._cos[:length], self._sin[:length]
        num_slots = len(embeds) if rows is None else len(rows)
        for number, layer in enumerate(self._layers):
            q, k, v = (part.transpose(1, 2) for part in self._qkv(layer, x, cos, sin))
            where = (number, slice(first, first + num_slots), slice(None), slice(length))
            cache.keys[where] = k if rows is None else k[rows]
            cache.values[where] = v if rows is None else v[rows]
            mixed = functional.scaled_dot_product_attention(
                q, k, v, is_causal=True, enable_gqa=self._heads != self._kv_heads
            )
            x = self._fed_forward(layer, x + layer.out(mixed.transpose(1, 2).flatten(2)))
        return self._logits(x[torch.arange(len(x), device=x.device), last])

    def step(self, tokens: Tensor, cache: SlotCache, width: int) -> Tensor:
        """Reads one token in each of the first slots and moves their positions on.

        Args:
            tokens: (active,).
            width: more than any of their positions.
        Returns:
            (active, vocabulary).
        """
        active = len(tokens)
        positions = cache.positions[:active]
        slots = torch.arange(active, device=tokens.device)
        visible = (torch.arange(width, device=tokens.device) <= positions[:, None])[:, None, None]
        x, cos, sin = self._embed(tokens), self._cos[positions], self._sin[positions]
        for number, layer in enumerate(self._layers):
            q, k, v = self._qkv(layer, x, cos, sin)
            keys, values = cache.keys[number, :active], cache.values[number, :active]
            keys[slots, :, positions] = k
            values[slots, :, positions] = v
            mixed = functional.scaled_dot_product_attention(
                q[:, :, None],
                keys[:, :, :width],
                values[:, :, :width],
                attn_mask=visible,
                enable_gqa=self._heads != self._kv_heads,
            )
            x = self._fed_forward(layer, x + layer.out(mixed.flatten(1)))
        positions += 1
        return self._logits(x)

    def _qkv(self, layer: _Layer, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(…, heads, head_dim) each; queries and keys are turned by their positions."""
        heads = functional.linear(self._normed(x, layer.norm), layer.qkv, layer.qkv_bias).unflatten(
            -1, (-1, self._head_dim)
        )
        turning, v = heads.split([self._heads + self._kv_heads, self._kv_heads], dim=-2)
        left, right = turning.chunk(2, dim=-1)
        turned = torch.addcmul(turning * cos, torch.cat((right, left), dim=-1), sin)
        q, k = turned.split([self._heads, self._kv_heads], dim=-2)
        return q, k, v

    def _fed_forward(self, layer: _Layer, x: Tensor) -> Tensor:
        gate, up = functional.linear(self._normed(x, layer.ffn_norm), layer.gate_up, layer.gate_up_bias).chunk(
            2, dim=-1
        )
        fed: Tensor = x + layer.down(self._act(gate) * up)
        return fed

    def _logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self._lm_head(self._normed(x, self._norm)).float()
        return logits

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, weight.shape, weight, self._eps)


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
