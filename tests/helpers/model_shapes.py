"""Configurations of InstructBLIP for tests, and state dicts in LAVIS's form that fit them.

The keys are spelt out from LAVIS's own module tree, so that the map under test is not also the judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from transformers import InstructBlipConfig, InstructBlipQFormerConfig, InstructBlipVisionConfig, LlamaConfig

Shape = tuple[int, ...]


def tiny() -> InstructBlipConfig:
    """A model of a few thousand weights whose widths all differ, so that a mix-up cannot fit by chance."""
    return InstructBlipConfig(
        vision_config=InstructBlipVisionConfig(
            hidden_size=12,
            intermediate_size=20,
            num_hidden_layers=2,
            num_attention_heads=3,
            image_size=28,
            patch_size=14,
        ),
        qformer_config=InstructBlipQFormerConfig(
            vocab_size=40,
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=24,
            encoder_hidden_size=12,
            max_position_embeddings=32,
        ),
        text_config=LlamaConfig(
            vocab_size=50, hidden_size=8, intermediate_size=18, num_hidden_layers=2, num_attention_heads=2
        ),
        num_query_tokens=5,
    )


def lavis_shapes(
    config: InstructBlipConfig, *, projection: str = "llm_proj", ln_vision: bool = True, frozen: bool = False
) -> dict[str, Shape]:
    """Every key of a LAVIS checkpoint of this model, with its shape."""
    return dict(_trained(config, projection, ln_vision)) | (dict(_frozen(config)) if frozen else {})


def lavis_state(
    shapes: dict[str, Shape], make: Callable[[Shape], Tensor] = lambda shape: torch.randn(shape) * 0.2
) -> dict[str, Tensor]:
    """Tensors of these shapes; the position table is what LAVIS has there."""
    return {
        key: torch.arange(shape[1])[None] if key.endswith("position_ids") else make(shape)
        for key, shape in shapes.items()
    }


def on_meta(shape: Shape) -> Tensor:
    return torch.empty(shape, device="meta")


def _linear(name: str, wide_out: int, wide_in: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (wide_out, wide_in)
    yield f"{name}.bias", (wide_out,)


def _norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _trained(config: InstructBlipConfig, projection: str, ln_vision: bool) -> Iterator[tuple[str, Shape]]:
    q, vision = config.qformer_config, config.vision_config.hidden_size
    yield "query_tokens", (1, config.num_query_tokens, q.hidden_size)
    if ln_vision:
        yield from _norm("ln_vision", vision)
    yield "Qformer.bert.embeddings.position_ids", (1, q.max_position_embeddings)
    yield "Qformer.bert.embeddings.word_embeddings.weight", (q.vocab_size, q.hidden_size)
    yield "Qformer.bert.embeddings.position_embeddings.weight", (q.max_position_embeddings, q.hidden_size)
    yield from _norm("Qformer.bert.embeddings.LayerNorm", q.hidden_size)
    for i in range(q.num_hidden_layers):
        layer = f"Qformer.bert.encoder.layer.{i}"
        blocks = {"attention": q.hidden_size} | (
            {"crossattention": vision} if i % q.cross_attention_frequency == 0 else {}
        )
        for block, wide_in in blocks.items():
            yield from _linear(f"{layer}.{block}.self.query", q.hidden_size, q.hidden_size)
            yield from _linear(f"{layer}.{block}.self.key", q.hidden_size, wide_in)
            yield from _linear(f"{layer}.{block}.self.value", q.hidden_size, wide_in)
            yield from _linear(f"{layer}.{block}.output.dense", q.hidden_size, q.hidden_size)
            yield from _norm(f"{layer}.{block}.output.LayerNorm", q.hidden_size)
        for suffix in ("", "_query"):
            yield from _linear(f"{layer}.intermediate{suffix}.dense", q.intermediate_size, q.hidden_size)
            yield from _linear(f"{layer}.output{suffix}.dense", q.hidden_size, q.intermediate_size)
            yield from _norm(f"{layer}.output{suffix}.LayerNorm", q.hidden_size)
    yield from _linear(projection, config.text_config.hidden_size, q.hidden_size)


def _frozen(config: InstructBlipConfig) -> Iterator[tuple[str, Shape]]:
    v, text = config.vision_config, config.text_config
    yield "visual_encoder.cls_token", (1, 1, v.hidden_size)
    yield "visual_encoder.pos_embed", (1, (v.image_size // v.patch_size) ** 2 + 1, v.hidden_size)
    yield "visual_encoder.patch_embed.proj.weight", (v.hidden_size, 3, v.patch_size, v.patch_size)
    yield "visual_encoder.patch_embed.proj.bias", (v.hidden_size,)
    for i in range(v.num_hidden_layers):
        block = f"visual_encoder.blocks.{i}"
        yield from _norm(f"{block}.norm1", v.hidden_size)
        yield f"{block}.attn.q_bias", (v.hidden_size,)
        yield f"{block}.attn.v_bias", (v.hidden_size,)
        yield f"{block}.attn.qkv.weight", (3 * v.hidden_size, v.hidden_size)
        yield from _linear(f"{block}.attn.proj", v.hidden_size, v.hidden_size)
        yield from _norm(f"{block}.norm2", v.hidden_size)
        yield from _linear(f"{block}.mlp.fc1", v.intermediate_size, v.hidden_size)
        yield from _linear(f"{block}.mlp.fc2", v.hidden_size, v.intermediate_size)
    yield "llm_model.model.embed_tokens.weight", (text.vocab_size, text.hidden_size)
    for i in range(text.num_hidden_layers):
        layer = f"llm_model.model.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"{layer}.self_attn.{name}.weight", (text.hidden_size, text.hidden_size)
        yield f"{layer}.self_attn.rotary_emb.inv_freq", (text.hidden_size // text.num_attention_heads // 2,)
        yield f"{layer}.mlp.gate_proj.weight", (text.intermediate_size, text.hidden_size)
        yield f"{layer}.mlp.up_proj.weight", (text.intermediate_size, text.hidden_size)
        yield f"{layer}.mlp.down_proj.weight", (text.hidden_size, text.intermediate_size)
        yield f"{layer}.input_layernorm.weight", (text.hidden_size,)
        yield f"{layer}.post_attention_layernorm.weight", (text.hidden_size,)
    yield "llm_model.model.norm.weight", (text.hidden_size,)
    yield "llm_model.lm_head.weight", (text.vocab_size, text.hidden_size)
