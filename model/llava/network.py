"""A LLaVA-style model: a vision tower, a projector of its patch features, a language model that reads them as tokens.

transformers' `LlavaForConditionalGeneration` with its tokenizer, image processor and chat template. The image's
tokens depend on the image alone, unlike a Q-Former's (arXiv 2304.08485 §4.1, arXiv 2310.03744 §3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, LlavaConfig, LlavaForConditionalGeneration, PreTrainedTokenizerBase
from transformers.image_processing_base import ImageProcessingMixin

from vigc.model.files.loading import choose_device, load_weights, read_part, require_files, stored_dtype
from vigc.model.llava.chat import ChatTemplate, read_chat_template
from vigc.model.network import STORED, normalised
from vigc.platform.records import ModelError


@dataclass(frozen=True)
class LlavaNetwork:
    """A loaded model with its tokenizer, image size and chat; see `vigc.model.weights.trainable_model`."""

    model: Any  # LlavaForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase
    chat: ChatTemplate
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    name: str

    language_path: ClassVar[str] = "model.language_model"
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "projection": ("model.multi_modal_projector.",),
        "vision": ("model.vision_tower.",),
        "language_model": ("model.language_model.", "lm_head."),
    }

    @property
    def device(self) -> torch.device:
        device: torch.device = self.language_model.get_input_embeddings().weight.device
        return device

    @property
    def image_size(self) -> int:
        """Side of the square image the vision tower was built for, in pixels."""
        return int(self.model.config.vision_config.image_size)

    @property
    def language_model(self) -> Any:
        return self.model.model.language_model

    @property
    def blocks(self) -> tuple[nn.Module, ...]:
        return self.model.model.vision_tower, self.model.model.multi_modal_projector, self.language_model

    @property
    def vision_encoder(self) -> Any:
        return self.model.model.vision_tower.encoder

    @property
    def decoder_layers(self) -> Any:
        return self.language_model.layers

    @property
    def eos_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def image_token_id(self) -> int:
        return int(self.model.config.image_token_id)

    @property
    def num_image_tokens(self) -> int:
        """Visual tokens of an image."""
        config = self.model.config
        per_side = self.image_size // int(config.vision_config.patch_size)
        return int(per_side**2 + self.num_class_tokens - (config.vision_feature_select_strategy == "default"))

    @property
    def num_class_tokens(self) -> int:
        """That the vision tower gives before those of the patches."""
        return int(hasattr(self.model.model.vision_tower.embeddings, "class_embedding"))

    def pixel_values(self, pixels: Tensor) -> Tensor:
        """(batch, 3, size, size), normalised, from uint8 (batch, size, size, 3)."""
        dtype = next(self.model.model.vision_tower.parameters()).dtype
        return normalised(pixels, self.image_mean, self.image_std, self.device).to(dtype)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Features of the vision tower's last layer.

        Args:
            pixels: (batch, size, size, 3), uint8.
        Returns:
            (batch, num_patches + num_class_tokens, vision_width).
        """
        features: Tensor = self.model.model.vision_tower(self.pixel_values(pixels)).last_hidden_state
        return features


def load_llava(source: str | Path, *, device: str = "auto", dtype: str = "auto") -> LlavaNetwork:
    """Loads a LLaVA-style model from a folder or a hub id, whole or not at all.

    Args:
        dtype: as for `load_network`.
    Raises:
        ModelError: no such folder or id, another architecture, missing, extra or mis-shaped weights, no tokenizer,
            processor or chat template.
    """
    chosen, chosen_dtype = choose_device(device, "auto" if dtype == STORED else dtype)
    name = str(source)
    require_files(name)
    config = read_part(name, "configuration", lambda: LlavaConfig.from_pretrained(name))
    if config.model_type != "llava":
        raise ModelError(f"{name}: the configuration is of a {config.model_type!r} model, not of a LLaVA model.")
    model = load_weights(name, LlavaForConditionalGeneration, stored_dtype(config) if dtype == STORED else chosen_dtype)
    tokenizer = read_part(name, "tokenizer", lambda: AutoTokenizer.from_pretrained(name))
    processor, _ = read_part(name, "image processor", lambda: ImageProcessingMixin.get_image_processor_dict(name))
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{name}: the tokenizer has no end mark; an answer would never end.")
    return LlavaNetwork(
        model=model.to(chosen).eval().requires_grad_(False),
        tokenizer=tokenizer,
        chat=read_chat_template(name, tokenizer),
        image_mean=tuple(processor["image_mean"]),
        image_std=tuple(processor["image_std"]),
        name=name,
    )
