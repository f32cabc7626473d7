"""The Q-Former, with what depends on the image alone computed once.

Its queries look at the image through cross-attention, whose keys and values are the same for every prompt: they are
an image's `memory`, kept while its conversations run. The text side is read up to the last layer, of which only the
queries come out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vigc.model.engines.continuous.decoder import fused
from vigc.model.network import Network


@dataclass(frozen=True)
class _Layer:
    module: Any
    qkv: Tensor
    qkv_bias: Tensor | None
    cross: int | None  # which of the layers that look at the image


class QFormer:
    """See the module."""

    def __init__(self, network: Network) -> None:
        model, config = network.model, network.model.config.qformer_config
        self._heads = config.num_attention_heads
        self._queries = network.num_queries
        self._embeddings, self._projection = model.qformer.embeddings, model.language_projection
        self._layers: list[_Layer] = []
        looking: list[Any] = []
        for module in model.qformer.encoder.layer:
            own = module.attention.attention
            cross = module.crossattention.attention if module.has_cross_attention else None
            number = len(looking) // 2 if cross is not None else None
            self._layers.append(_Layer(module, *fused(own.query, own.key, own.value), number))
            looking += [cross.key, cross.value] if cross is not None else []
        self._look, self._look_bias = fused(*looking)
        self._num_looks = len(looking) // 2
        start = model.query_tokens.to(self._embeddings.layernorm.weight.dtype)
        self._start = self._embeddings.layernorm(start)  # (1, num_queries, width)

    def memory(self, features: Tensor) -> Tensor:
        """Cross-attention keys and values: (batch, layers that look, 2, heads, num_patches + 1, head_dim).

        Args:
            features: (batch, num_patches + 1, vision_width) from `Network.encode_images`.
        """
        seen = functional.linear(features, self._look, self._look_bias)
        parts: Tensor = seen.unflatten(-1, (self._num_looks, 2, self._heads, -1))
        return parts.permute(0, 2, 3, 4, 1, 5).contiguous()

    def visual_tokens(self, memory: Tensor, text_ids: Tensor, text_mask: Tensor) -> Tensor:
        """What the language model sees of each image under each prompt, as `Network.visual_tokens`.

        Args:
            memory: as above, one for each text.
            text_ids, text_mask: (batch, length) from `Network.qformer_ids`.
        Returns:
            (batch, num_queries, language_width).
        """
        batch, length = text_ids.shape
        table = self._embeddings
        words = table.word_embeddings(text_ids) + table.position_embeddings(table.position_ids[:, :length])
        text = table.layernorm(words.to(self._start.dtype))
        x = torch.cat([self._start.expand(batch, -1, -1), text], dim=1)
        visible = functional.pad(text_mask.bool(), (self._queries, 0), value=True)[:, None, None]
        for number, layer in enumerate(self._layers):
            x = self._layer(layer, x, memory, visible, is_last=number == len(self._layers) - 1)
        visual: Tensor = self._projection(x)
        return visual

    def _layer(self, layer: _Layer, x: Tensor, memory: Tensor, visible: Tensor, *, is_last: bool) -> Tensor:
        """(batch, num_queries + length, width); the last layer gives its queries only."""
        module, num = layer.module, self._queries
        heads = functional.linear(x, layer.qkv, layer.qkv_bias).unflatten(-1, (3, self._heads, -1))
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        if is_last:
            q, x = q[:, :, :num], x[:, :num]
        x = module.attention.output(_merged(functional.scaled_dot_product_attention(q, k, v, attn_mask=visible)), x)
        queries: Tensor = x[:, :num]
        if layer.cross is not None:
            looking = module.crossattention
            q = looking.attention.query(queries).unflatten(-1, (self._heads, -1)).transpose(1, 2)
            k, v = memory[:, layer.cross, 0], memory[:, layer.cross, 1]
            queries = looking.output(_merged(functional.scaled_dot_product_attention(q, k, v)), queries)
        queries = module.output_query(module.intermediate_query(queries), queries)
        if is_last:
            return queries
        text = x[:, num:]
        return torch.cat([queries, module.output(module.intermediate(text), text)], dim=1)


def _merged(mixed: Tensor) -> Tensor:
    """(batch, heads, length, head_dim) to (batch, length, width)."""
    return mixed.transpose(1, 2).flatten(2)
