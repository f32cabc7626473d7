"""The embedded model's shape: the classes of InstructBLIP, in small.

6.9 M parameters: a vision transformer of 64 patches, a Q-Former that reads the prompt, a projection, and a Llama. Only
the numbers differ from the 7B model's, so a path is all that changes between them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from transformers import (
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
)

IMAGE_SIZE = 128
PATCH_SIZE = 16
NUM_QUERIES = 16
WIDTH = 192
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def make_config(
    vocab_size: int, qformer_vocab_size: int, image_token_id: int, bos_id: int, eos_id: int, pad_id: int
) -> InstructBlipConfig:
    """Vision 4 layers, Q-Former 4 layers with cross-attention in every second, Llama 4 layers."""
    vision = InstructBlipVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=6,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        layer_norm_eps=1e-6,
        initializer_range=0.02,
    )
    qformer = InstructBlipQFormerConfig(
        vocab_size=qformer_vocab_size,
        hidden_size=WIDTH,
        num_hidden_layers=4,
        num_attention_heads=6,
        intermediate_size=3 * WIDTH,
        encoder_hidden_size=WIDTH,
        cross_attention_frequency=2,
        max_position_embeddings=256,
        layer_norm_eps=1e-6,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=pad_id,
    )
    text = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=WIDTH,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
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
        num_query_tokens=NUM_QUERIES,
        image_token_index=image_token_id,
    )


def make_model(config: InstructBlipConfig) -> InstructBlipForConditionalGeneration:
    """A model with fresh weights that can learn: transformers starts the queries at zero, all alike."""
    model = InstructBlipForConditionalGeneration(config)
    torch.nn.init.normal_(model.query_tokens, std=0.5)
    return model


def pixels_to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 (height, width, 3) to float (3, height, width), CLIP-normalised."""
    scaled = torch.from_numpy(np.array(pixels, dtype=np.float32)).permute(2, 0, 1) / 255
    return (scaled - torch.tensor(CLIP_MEAN)[:, None, None]) / torch.tensor(CLIP_STD)[:, None, None]
