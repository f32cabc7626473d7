"""The embedded model's shape: the classes of InstructBLIP, in small.

A vision transformer of 100 patches, a Q-Former that reads the prompt, a projection, and a Llama. Only the numbers
differ from the 7B model's, so a path is all that changes between them. What was trained says its own shape in
config.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a shape can be chosen without torch
    from torch import nn
    from transformers import InstructBlipConfig, InstructBlipForConditionalGeneration

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ModelShape:
    """The numbers of one model; heads are 32 wide everywhere."""

    image_size: int = 160
    patch_size: int = 16
    vision_width: int = 192
    vision_layers: int = 4
    width: int = 192  # of the Q-Former and the language model
    qformer_layers: int = 4
    cross_attention_frequency: int = 1  # 1: every layer of the Q-Former looks at the image
    language_layers: int = 4
    num_queries: int = 4


SHIPPED = ModelShape()
# For ablations: a run takes minutes.
SMALL = ModelShape(vision_width=128, vision_layers=3, width=128, qformer_layers=3, language_layers=3)


def make_config(
    shape: ModelShape,
    vocab_size: int,
    qformer_vocab_size: int,
    *,
    image_token_id: int,
    bos_id: int,
    eos_id: int,
    pad_id: int,
) -> InstructBlipConfig:
    """Of this shape, for tokenizers of these sizes with these marks."""
    from transformers import InstructBlipConfig, InstructBlipQFormerConfig, InstructBlipVisionConfig, LlamaConfig

    vision = InstructBlipVisionConfig(
        hidden_size=shape.vision_width,
        intermediate_size=4 * shape.vision_width,
        num_hidden_layers=shape.vision_layers,
        num_attention_heads=shape.vision_width // 32,
        image_size=shape.image_size,
        patch_size=shape.patch_size,
        layer_norm_eps=1e-6,
        initializer_range=0.02,
    )
    qformer = InstructBlipQFormerConfig(
        vocab_size=qformer_vocab_size,
        hidden_size=shape.width,
        num_hidden_layers=shape.qformer_layers,
        num_attention_heads=shape.width // 32,
        intermediate_size=3 * shape.width,
        encoder_hidden_size=shape.vision_width,
        cross_attention_frequency=shape.cross_attention_frequency,
        max_position_embeddings=256,
        layer_norm_eps=1e-6,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=pad_id,
    )
    text = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=shape.width,
        intermediate_size=8 * shape.width // 3,
        num_hidden_layers=shape.language_layers,
        num_attention_heads=shape.width // 32,
        num_key_value_heads=shape.width // 32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=bos_id,
        eos_token_id=eos_id,
        pad_token_id=pad_id,
    )
    return InstructBlipConfig(
        vision_config=vision,
        qformer_config=qformer,
        text_config=text,
        num_query_tokens=shape.num_queries,
        image_token_index=image_token_id,
    )


def make_model(config: InstructBlipConfig) -> InstructBlipForConditionalGeneration:
    """A model with fresh weights that can learn: transformers starts the queries at zero, all alike."""
    from torch import nn
    from transformers import InstructBlipForConditionalGeneration

    model = InstructBlipForConditionalGeneration(config)
    nn.init.normal_(model.query_tokens, std=0.5)
    return model


def num_parameters(model: nn.Module) -> int:
    """Distinct weights; tied ones count once."""
    return sum(p.numel() for p in model.parameters())
