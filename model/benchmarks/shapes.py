"""Networks to measure: the one that ships, and others of real shapes with random weights and the same tokenizers.

With random weights no text means anything, so conversations go by a script of lengths (model/README.md, "What a
conversation costs"), and the end mark is never the likeliest token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from transformers import (
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
)

from vigc.model import embedded
from vigc.model.files.loading import DTYPES
from vigc.model.network import Network, load_network
from vigc.platform.records import ConfigError, Kind

EMBEDDED = "embedded"
SHAPES = ("frozen", "vicuna-7b", "vicuna-13b")  # with random weights; `frozen` stays as it is, to compare versions


@dataclass(frozen=True)
class Script:
    """How long each part of a conversation is, in tokens."""

    instruction: int
    question: int  # with both tags
    answer: int
    sentence: int
    num_sentences: int


SCRIPTS = {
    Kind.CONVERSATION: Script(19, 21, 28, 24, 1),
    Kind.DETAIL: Script(19, 21, 140, 22, 4),
    Kind.REASONING: Script(19, 21, 160, 26, 4),
}
# Of the frozen shape: descriptions of 65 tokens in 6 sentences, of which 5 are asked for one by one.
FROZEN_SCRIPT = Script(8, 14, 65, 11, 5)


def make_network(shape: str, device: str, dtype: str) -> Network:
    """The embedded model, or random weights of a shape.

    Raises:
        ConfigError: an unknown shape.
    """
    small = load_network(embedded.PATH, device="cpu", dtype="float32")
    if shape == EMBEDDED:
        return load_network(embedded.PATH, device=device, dtype=dtype)
    if shape not in SHAPES:
        raise ConfigError(f"The shape {shape!r} is unknown; there are {', '.join((EMBEDDED, *SHAPES))}.")
    config = _frozen(len(small.tokenizer)) if shape == "frozen" else vicuna(shape.removeprefix("vicuna-"))
    torch.manual_seed(0)
    with torch.device(device):
        model = InstructBlipForConditionalGeneration._from_config(config, dtype=DTYPES[dtype])
    model.to(device).eval().requires_grad_(False)
    torch.nn.init.normal_(model.query_tokens, std=0.5)
    network = replace(small, model=model, name=f"random weights, {shape}")
    model.language_model.get_output_embeddings().weight[network.eos_id] = 0
    return network


def _frozen(vocab_size: int) -> InstructBlipConfig:
    """6.7 million parameters, which a prototype was measured with."""
    vision = InstructBlipVisionConfig(
        hidden_size=192, intermediate_size=768, num_hidden_layers=4, num_attention_heads=6, image_size=96, patch_size=12
    )
    qformer = InstructBlipQFormerConfig(
        vocab_size=vocab_size,
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=6,
        intermediate_size=576,
        encoder_hidden_size=192,
        max_position_embeddings=256,
    )
    text = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    return InstructBlipConfig(vision_config=vision, qformer_config=qformer, text_config=text, num_query_tokens=8)


def vicuna(size: str) -> InstructBlipConfig:
    """The shapes of InstructBLIP with Vicuna "7b" or "13b"."""
    width, ffn, layers, heads = {"7b": (4096, 11008, 32, 32), "13b": (5120, 13824, 40, 40)}[size]
    text = LlamaConfig(
        vocab_size=32001,
        hidden_size=width,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=2048,
    )
    return InstructBlipConfig(
        vision_config=InstructBlipVisionConfig(),
        qformer_config=InstructBlipQFormerConfig(vocab_size=30523),
        text_config=text,
        num_query_tokens=32,
    )
