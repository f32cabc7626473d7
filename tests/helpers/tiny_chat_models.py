"""Models of families that people use, with a few thousand random weights: folders as the hub has them, with the
family's own processor and a chat template in its form. The words are the embedded model's, so they can be read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers.processors import ByteLevel
from transformers import (
    AutoTokenizer,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from vigc.model.embedded import PATH

SPREAD = 1.0  # of the random weights; with the usual 0.02 every reply is the same
TEXT = {
    "hidden_size": 64,  # vLLM on CPUs has heads of 32 and more
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
QWEN_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image_url' in part %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IDEFICS_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'] is string %}{{ ': ' + message['content'] }}{% else %}"
    "{{ ':' if message['content'][0]['type'] == 'image' else ': ' }}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% elif part['type'] == 'image' %}{{ '<image>' }}{% endif %}"
    "{% endfor %}{% endif %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def write_tiny_qwen(folder: Path, seed: int = 0) -> Path:
    """A Qwen2.5-VL: images of many sizes, positions in three directions, a processor that knows videos, too."""
    marks = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    words = _tokenizer(marks, end="<|im_end|>")
    ids = {mark: words.convert_tokens_to_ids(mark) for mark in marks}
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 14,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        text_config={
            **TEXT,
            "vocab_size": len(words),
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
            "bos_token_id": ids["<|im_start|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": 0,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )
    _save(Qwen2_5_VLForConditionalGeneration(config), words, folder, seed)
    _write(
        folder / "preprocessor_config.json",
        image_processor_type="Qwen2VLImageProcessor",
        processor_class="Qwen2_5_VLProcessor",
        min_pixels=56 * 56,
        max_pixels=12845056,
        patch_size=14,
        temporal_patch_size=2,
        merge_size=2,
        image_mean=[0.48145466, 0.4578275, 0.40821073],
        image_std=[0.26862954, 0.26130258, 0.27577711],
    )
    _write(folder / "chat_template.json", chat_template=QWEN_TEMPLATE)
    return folder


def write_tiny_idefics(folder: Path, seed: int = 0) -> Path:
    """An Idefics3, which SmolVLM's first models are: an image is cut into parts, each with marks of its place."""
    size, patch, scale = 56, 14, 2
    marks = ["<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>"]
    marks += [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    words = _tokenizer(marks, end="<end_of_utterance>")
    config = Idefics3Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": size,
            "patch_size": patch,
        },
        text_config={
            **TEXT,
            "model_type": "llama",
            "vocab_size": len(words),
            "bos_token_id": words.convert_tokens_to_ids("<|im_start|>"),
            "eos_token_id": words.convert_tokens_to_ids("<end_of_utterance>"),
            "pad_token_id": 0,
        },
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=scale,
    )
    _save(Idefics3ForConditionalGeneration(config), words, folder, seed)
    _write(
        folder / "preprocessor_config.json",
        image_processor_type="Idefics3ImageProcessor",
        processor_class="Idefics3Processor",
        do_image_splitting=True,
        size={"longest_edge": 2 * size},
        max_image_size={"longest_edge": size},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    _write(
        folder / "processor_config.json",
        processor_class="Idefics3Processor",
        image_seq_len=(size // patch) ** 2 // scale**2,
    )
    _write(folder / "chat_template.json", chat_template=IDEFICS_TEMPLATE)
    return folder


def _tokenizer(marks: list[str], end: str) -> PreTrainedTokenizerBase:
    words = AutoTokenizer.from_pretrained(PATH)
    words.backend_tokenizer.post_processor = ByteLevel(trim_offsets=False)  # these families have no start mark
    words.add_special_tokens({"additional_special_tokens": marks})
    words.eos_token = end
    return words


def _save(model: PreTrainedModel, words: PreTrainedTokenizerBase, folder: Path, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=SPREAD, generator=generator)
    model.save_pretrained(folder)
    words.save_pretrained(folder)


def _write(file: Path, **content: Any) -> None:
    file.write_text(json.dumps(content, indent=2), encoding="utf-8")
