"""What LAVIS calls the weights that transformers calls otherwise, in both directions.

RULES is the whole map: 329 keys of the Q-Former, the queries, the projection, ln_vision, and the frozen vision and
language models. Verified against both libraries' models: same shapes, same outputs.
"""

from __future__ import annotations

import re

# LAVIS name, transformers name: "#" is a layer's number, "*" the rest. The first rule that fits counts, in either
# direction.
RULES = (
    ("query_tokens", "query_tokens"),
    ("llm_proj.*", "language_projection.*"),
    ("ln_vision.*", "vision_model.post_layernorm.*"),
    ("Qformer.bert.embeddings.LayerNorm.*", "qformer.embeddings.layernorm.*"),
    ("Qformer.bert.encoder.layer.#.attention.self.*", "qformer.encoder.layer.#.attention.attention.*"),
    ("Qformer.bert.encoder.layer.#.crossattention.self.*", "qformer.encoder.layer.#.crossattention.attention.*"),
    ("Qformer.bert.*", "qformer.*"),
    ("visual_encoder.cls_token", "vision_model.embeddings.class_embedding"),
    ("visual_encoder.pos_embed", "vision_model.embeddings.position_embedding"),
    ("visual_encoder.patch_embed.proj.*", "vision_model.embeddings.patch_embedding.*"),
    ("visual_encoder.blocks.#.norm1.*", "vision_model.encoder.layers.#.layer_norm1.*"),
    ("visual_encoder.blocks.#.norm2.*", "vision_model.encoder.layers.#.layer_norm2.*"),
    ("visual_encoder.blocks.#.attn.qkv.*", "vision_model.encoder.layers.#.self_attn.qkv.*"),
    ("visual_encoder.blocks.#.attn.proj.*", "vision_model.encoder.layers.#.self_attn.projection.*"),
    ("visual_encoder.blocks.#.mlp.*", "vision_model.encoder.layers.#.mlp.*"),
    ("llm_model.*", "language_model.*"),
)
MINIGPT4_PROJECTION = ("llama_proj.", "llm_proj.")
# Tables that both libraries compute; nothing in them was learnt.
POSITION_IDS = "Qformer.bert.embeddings.position_ids"
DROPPED = (
    POSITION_IDS,
    "llm_model.model.layers.#.self_attn.rotary_emb.inv_freq",
    "llm_model.model.rotary_emb.inv_freq",
)
# LAVIS keeps the biases of queries and values apart and has none for keys.
QKV_BIAS, Q_BIAS, V_BIAS = (f"visual_encoder.blocks.#.attn.{end}" for end in ("qkv.bias", "q_bias", "v_bias"))


def transformers_name(key: str) -> str | None:
    """None for what is no LAVIS name; that includes one that only the general rules would let through."""
    old, new = MINIGPT4_PROJECTION
    key = new + key.removeprefix(old) if key.startswith(old) else key
    name = _renamed(key, _TO_TRANSFORMERS)
    return name if name is not None and _renamed(name, _TO_LAVIS) == key else None


def lavis_name(name: str) -> str | None:
    """None for what is no transformers name. The vision model's joint bias gets the name QKV_BIAS, which is split."""
    return _renamed(name, _TO_LAVIS)


def is_dropped(key: str) -> bool:
    return any(block_of(template, key) is not None for template in DROPPED)


def block_of(template: str, name: str) -> str | None:
    """The layer's number (or "" in a template without one) when `name` fits the template."""
    match = _pattern(template).fullmatch(name)
    return match and "".join(match.groups())


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(r"\#", r"(\d+)").replace(r"\*", "(.+)"))


def _filler(template: str) -> str:
    """A template as what re.Match.expand wants: its first gap is group 1, its second group 2."""
    for number in (1, 2):
        template = re.sub(r"[#*]", rf"\\g<{number}>", template, count=1)
    return template


_TO_TRANSFORMERS = [(_pattern(lavis), _filler(name)) for lavis, name in RULES]
_TO_LAVIS = [(_pattern(name), _filler(lavis)) for lavis, name in RULES]


def _renamed(name: str, rules: list[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, template in rules:
        if match := pattern.fullmatch(name):
            return match.expand(template)
    return None
