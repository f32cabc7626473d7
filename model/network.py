"""The network: InstructBLIP's own classes, loaded strictly and taken apart at the joint that VIC needs.

Vision features depend on the image alone and are computed once. The Q-Former reads the prompt beside its queries, so
its visual tokens change with every word of the prompt; they go in front of the same prompt into the language model.
`generate` of the whole model would recompute the first and hide the second, so the parts are called one by one (method:
arXiv 2308.12714 §3; architecture: arXiv 2305.06500 §2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    PreTrainedTokenizerBase,
)
from transformers.image_processing_base import ImageProcessingMixin

from vigc.model.files.loading import choose_device, load_weights, read_part, require_files, stored_dtype
from vigc.platform.records import ModelError

# The Q-Former reads at most this many tokens, and what is cut is cut from the left: the newest sentence matters most
# (model/README.md, Q7).
QFORMER_MAX_TOKENS = 128
STORED = "stored"  # the dtype that a model's files are in


@dataclass(frozen=True)
class Network:
    """A loaded model with its tokenizers and image size. All methods are free of state and need no gradient unless
    the caller wants one.
    """

    model: Any  # InstructBlipForConditionalGeneration, whose annotations are looser than its behaviour
    tokenizer: PreTrainedTokenizerBase
    qformer_tokenizer: PreTrainedTokenizerBase
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    name: str

    language_path: ClassVar[str] = "language_model"
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "qformer": ("query_tokens", "qformer."),
        "projection": ("language_projection.",),
        "vision_norm": ("vision_model.post_layernorm.",),
        "vision": ("vision_model.",),
        "language_model": ("language_model.",),
    }

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.query_tokens.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Of the language model (the queries may stay in fp32)."""
        dtype: torch.dtype = self.language_model.get_input_embeddings().weight.dtype
        return dtype

    @property
    def image_size(self) -> int:
        """Side of the square image the vision model was built for, in pixels."""
        return int(self.model.config.vision_config.image_size)

    @property
    def num_queries(self) -> int:
        return int(self.model.config.num_query_tokens)

    @property
    def language_model(self) -> Any:
        return self.model.language_model

    @property
    def blocks(self) -> tuple[nn.Module, ...]:
        model = self.model
        return model.vision_model, model.qformer, model.language_projection, self.language_model

    @property
    def vision_encoder(self) -> Any:
        return self.model.vision_model.encoder

    @property
    def decoder_layers(self) -> Any:
        return self.language_model.model.layers

    @property
    def bos_id(self) -> int:
        return int(self.tokenizer.bos_token_id)

    @property
    def eos_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Vision features, computed once per image and shared by every step of its conversations.

        Args:
            pixels: (batch, size, size, 3), uint8.
        Returns:
            (batch, num_patches + 1, vision_width), in the model's dtype, on its device.
        Raises:
            ValueError: the image size is not the one the vision model was built for.
        """
        if pixels.dtype != torch.uint8 or pixels.shape[1:] != (self.image_size, self.image_size, 3):
            raise ValueError(
                f"encode_images wants uint8 pixels of {self.image_size} x {self.image_size} x 3, not "
                f"{pixels.dtype} {tuple(pixels.shape[1:])}."
            )
        vision = self.model.vision_model
        values = normalised(pixels, self.image_mean, self.image_std, self.device).to(next(vision.parameters()).dtype)
        features: Tensor = vision(values, interpolate_pos_encoding=False).last_hidden_state
        return features

    def qformer_ids(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Token ids and mask for the Q-Former's text side, each (batch, length), right-padded: its positions are
        absolute, so padding on the left would make a prompt's features depend on its neighbours. Texts over
        QFORMER_MAX_TOKENS lose their beginning.
        """
        return self.padded_for_qformer([self.qformer_row(text) for text in texts])

    def padded_for_qformer(self, rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """The same, each (len(rows), longest row), of rows from `qformer_row`."""
        return pad_right(rows, int(self.qformer_tokenizer.pad_token_id), self.device)

    def qformer_row(self, text: str) -> list[int]:
        """Token ids of one text for the Q-Former; the first is its tokenizer's start mark and is never cut."""
        ids: list[int] = self.qformer_tokenizer(text).input_ids
        excess = len(ids) - QFORMER_MAX_TOKENS
        return ids if excess <= 0 else [ids[0], *ids[excess + 1 :]]

    def visual_tokens(self, features: Tensor, text_ids: Tensor, text_mask: Tensor) -> Tensor:
        """What the language model sees of each image under each prompt.

        Args:
            features: (batch, num_patches + 1, vision_width) from `encode_images`.
            text_ids, text_mask: (batch, length) from `qformer_ids`.
        Returns:
            (batch, num_queries, language_width).
        """
        batch = len(text_ids)
        queries = self.model.query_tokens.expand(batch, -1, -1)
        mask = torch.cat(
            [torch.ones(batch, self.num_queries, dtype=text_mask.dtype, device=self.device), text_mask], dim=1
        )
        out = self.model.qformer(
            input_ids=text_ids,
            attention_mask=mask,
            query_embeds=queries.to(features.dtype),
            encoder_hidden_states=features,
            encoder_attention_mask=torch.ones(features.shape[:2], dtype=torch.long, device=self.device),
        )
        visual: Tensor = self.model.language_projection(out.last_hidden_state[:, : self.num_queries])
        return visual

    def prompt_ids(self, text: str) -> list[int]:
        """Token ids of a prompt for the language model, start mark first."""
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        return [self.bos_id, *ids]

    def prompt_ids_and_ends(self, text: str) -> tuple[list[int], list[int]]:
        """The same, and where in the text each token ends, in characters."""
        read = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return [self.bos_id, *read.input_ids], [0, *(end for _, end in read.offset_mapping)]

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings (…, language_width) of the language model."""
        embedded: Tensor = self.language_model.get_input_embeddings()(ids)
        return embedded


def pad_right(rows: Sequence[list[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows of ids as one tensor with its mask, both (len(rows), longest), int64."""
    lengths = [len(row) for row in rows]
    longest = max(lengths)
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
    return upload(ids, device), upload(mask, device)


def normalised(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> Tensor:
    """uint8 (batch, size, size, 3) as (batch, 3, size, size) float32, with this mean and spread taken out."""
    scaled = upload(pixels, device).permute(0, 3, 1, 2).float() / 255
    middle, spread = upload(torch.tensor([mean, std]), device)[:, :, None, None]
    values: Tensor = (scaled - middle) / spread
    return values


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies a tensor of any shape to the device, without waiting for work that is queued there."""
    if device.type == "cuda" and not tensor.is_cuda:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def load_network(source: str | Path, *, device: str = "auto", dtype: str = "auto") -> Network:
    """Loads an InstructBLIP model from a folder or a hub id, whole or not at all.

    Args:
        dtype: a name of DTYPES, "auto" for what suits the device, or STORED, for weights that are saved again.
    Raises:
        ModelError: no such folder or id, another architecture, missing, extra or mis-shaped weights, no tokenizer or
            processor.
    """
    chosen, chosen_dtype = choose_device(device, "auto" if dtype == STORED else dtype)
    name = str(source)
    require_files(name)
    config = read_part(name, "configuration", lambda: InstructBlipConfig.from_pretrained(name))
    if config.model_type != "instructblip":
        raise ModelError(
            f"{name}: the configuration is of a {config.model_type!r} model; VIG and VIC need an InstructBLIP model, "
            "whose Q-Former reads text."
        )
    if config.text_config.model_type != "llama":
        raise ModelError(
            f"{name}: its language model is {config.text_config.model_type!r}; only decoders of the Llama family "
            "(Vicuna) are supported."
        )
    if dtype == STORED:
        chosen_dtype = stored_dtype(config)
    model = load_weights(name, InstructBlipForConditionalGeneration, chosen_dtype)
    tokenizer = read_part(name, "tokenizer", lambda: AutoTokenizer.from_pretrained(name))
    qformer_tokenizer = read_part(name, "Q-Former tokenizer", lambda: _load_qformer_tokenizer(name))
    processor, _ = read_part(name, "image processor", lambda: ImageProcessingMixin.get_image_processor_dict(name))
    _require_vocabulary(name, model, tokenizer, qformer_tokenizer)
    return Network(
        model=model.to(chosen).eval().requires_grad_(False),
        tokenizer=tokenizer,
        qformer_tokenizer=qformer_tokenizer,
        image_mean=tuple(processor["image_mean"]),
        image_std=tuple(processor["image_std"]),
        name=name,
    )


def _load_qformer_tokenizer(name: str) -> PreTrainedTokenizerBase:
    folder = Path(name).expanduser().absolute()
    if folder.is_dir():
        # Of a `subfolder`, transformers does not read vocab.txt.
        return AutoTokenizer.from_pretrained(str(folder / "qformer_tokenizer"))
    return AutoTokenizer.from_pretrained(name, subfolder="qformer_tokenizer")


def _require_vocabulary(name: str, model: Any, tokenizer: Any, qformer_tokenizer: Any) -> None:
    if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
        raise ModelError(
            f"{name}: the tokenizer has no start or end mark; the language model cannot be prompted without them."
        )
    for what, loaded, table in (
        ("tokenizer", tokenizer, model.language_model.get_input_embeddings()),
        ("Q-Former tokenizer", qformer_tokenizer, model.qformer.get_input_embeddings()),
    ):
        ids = len(loaded)
        if ids <= len(loaded.all_special_ids):
            raise ModelError(f"{name}: the {what} knows no words; get its files again (tokenizer.json or vocab.txt).")
        if ids > table.num_embeddings:
            raise ModelError(
                f"{name}: the {what} has {ids} tokens, but the model has embeddings for {table.num_embeddings} only."
            )
    if qformer_tokenizer.pad_token_id is None:
        raise ModelError(f"{name}: the Q-Former tokenizer has no padding token.")
