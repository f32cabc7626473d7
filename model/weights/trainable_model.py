"""What training, checkpoints and adapters need of a model. `Network` and `LlavaNetwork` fulfil it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:  # a recipe can be read without torch
    import torch
    from torch import Tensor, nn


class TrainableModel(Protocol):
    @property
    def model(self) -> Any: ...
    @property
    def tokenizer(self) -> Any: ...
    @property
    def name(self) -> str: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def image_size(self) -> int: ...
    @property
    def image_mean(self) -> tuple[float, ...]: ...
    @property
    def image_std(self) -> tuple[float, ...]: ...
    @property
    def eos_id(self) -> int: ...
    @property
    def language_model(self) -> Any:
        """Where adapters go; `language_path` is its name in `model`."""
        ...

    @property
    def language_path(self) -> str: ...
    @property
    def parts(self) -> Mapping[str, tuple[str, ...]]:
        """What a recipe can train, and how the names of its parameters begin."""
        ...

    @property
    def blocks(self) -> tuple[nn.Module, ...]:
        """The modules that are in training mode or not, each as a whole."""
        ...

    @property
    def vision_encoder(self) -> Any: ...
    @property
    def decoder_layers(self) -> Any: ...

    def encode_images(self, pixels: Tensor) -> Tensor:
        """uint8 (batch, size, size, 3) to vision features (batch, patches, vision_width)."""
        ...


T = TypeVar("T", bound=TrainableModel)


def renamed(network: T, name: str) -> T:
    """The same model under another name."""
    changed: T = replace(network, name=name)  # type: ignore[type-var]
    return changed


def load_trainable_model(source: str | Path, *, device: str = "auto", dtype: str = "auto") -> TrainableModel:
    """An InstructBLIP or a LLaVA model, as its configuration says.

    Raises:
        ModelError: see `load_network` and `load_llava`.
    """
    from vigc.model.files.loading import model_type, require_files
    from vigc.model.llava import load_llava
    from vigc.model.network import load_network

    require_files(str(source))
    if model_type(str(source)) == "llava":
        return load_llava(source, device=device, dtype=dtype)
    return load_network(source, device=device, dtype=dtype)
