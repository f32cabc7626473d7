"""A small InstructBLIP model whose files are those that a Vicuna's is published with: `tokenizer.model`, a real
SentencePiece vocabulary of 32,000 words, for the language model, and WordPiece for the Q-Former's text.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import torch
from transformers import (
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
)

NUM_WORDS = 32_000
# As in the repositories of Vicuna and Llama.
TOKENIZER_CONFIG = {
    "tokenizer_class": "LlamaTokenizer",
    "add_bos_token": True,
    "add_eos_token": False,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "clean_up_tokenization_spaces": False,
    "model_max_length": 2048,
    "sp_model_kwargs": {},
}
MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
QFORMER_WORDS = [*MARKS, *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"), "the", "red"]


def vocabulary_file() -> Path:
    """Of the package mistral-common, which is not imported: its data file is all that is wanted."""
    (package,) = importlib.util.find_spec("mistral_common").submodule_search_locations
    return Path(package) / "data" / "tokenizer.model.v1"


def write_sentencepiece_model(folder: Path, *, seed: int = 0) -> Path:
    """Weights are random and far apart, so that no two tokens are as good as equal."""
    config = InstructBlipConfig(
        vision_config=InstructBlipVisionConfig(
            hidden_size=12,
            intermediate_size=20,
            num_hidden_layers=2,
            num_attention_heads=3,
            image_size=28,
            patch_size=14,
        ),
        qformer_config=InstructBlipQFormerConfig(
            vocab_size=len(QFORMER_WORDS),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=24,
            encoder_hidden_size=12,
            max_position_embeddings=128,
        ),
        text_config=LlamaConfig(
            vocab_size=NUM_WORDS,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=512,
        ),
        num_query_tokens=5,
    )
    torch.manual_seed(seed)
    model = InstructBlipForConditionalGeneration(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.4)
    model.save_pretrained(folder)
    shutil.copyfile(vocabulary_file(), folder / "tokenizer.model")
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG))
    processor = {"image_processor_type": "BlipImageProcessor", "size": {"height": 28, "width": 28}}
    processor |= {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    qformer = folder / "qformer_tokenizer"
    qformer.mkdir()
    (qformer / "vocab.txt").write_text("\n".join(QFORMER_WORDS) + "\n")
    (qformer / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True, "truncation_side": "left"})
    )
    return folder
