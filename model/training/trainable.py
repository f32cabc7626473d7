"""Which weights a run changes. The rest is frozen: no gradient, no optimiser state, in no checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from vigc.model.network import Network
from vigc.platform.records import ConfigError


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters in the language model's attention; the paper's variant (facts §1.6)."""

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.1
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True)
class Trainable:
    """The paper trains the Q-Former, its queries and the projection; InstructBLIP's variant the vision norm, too."""

    qformer: bool = True  # with the query tokens and the text branch
    projection: bool = True
    vision_norm: bool = False  # the LayerNorm after the vision transformer (LAVIS: ln_vision)
    vision: bool = False
    language_model: bool = False
    lora: Lora | None = None


def set_trainable(network: Network, wanted: Trainable) -> list[str]:
    """Freezes everything, then frees what is wanted, in fp32, and puts LoRA adapters in; gives the trained names.

    Raises:
        ConfigError: nothing is trainable, or LoRA and the whole language model are both asked for.
    """
    if wanted.lora is not None and wanted.language_model:
        raise ConfigError("LoRA adapts a frozen language model; switch off trainable.language_model or trainable.lora.")
    model = network.model.requires_grad_(False).eval()
    if wanted.lora is not None:
        _add_lora(network.language_model, wanted.lora)
    chosen: list[nn.Module] = []
    if wanted.qformer:
        chosen.append(model.qformer)
        model.query_tokens.requires_grad_(True)
        model.query_tokens.data = model.query_tokens.data.float()
    if wanted.projection:
        chosen.append(model.language_projection)
    if wanted.vision:
        chosen.append(model.vision_model)
    elif wanted.vision_norm:
        chosen.append(model.vision_model.post_layernorm)
    if wanted.language_model:
        chosen.append(network.language_model)
    for part in chosen:
        part.float().requires_grad_(True)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not names:
        raise ConfigError("Nothing is trainable; switch on one of trainable.qformer, projection, vision, lora …")
    return names


def set_modes(network: Network, *, gradient_checkpointing: bool) -> None:
    """Dropout where weights are trained; frozen parts stay as at inference. Checkpointing recomputes the language
    model's layers in the backward pass instead of keeping their activations.
    """
    model = network.model.eval()
    for part in (model.vision_model, model.qformer, model.language_projection, network.language_model):
        if any(p.requires_grad for p in part.parameters()):
            part.train()
    if not any(p.requires_grad for p in model.vision_model.encoder.parameters()):
        model.vision_model.eval()
    if gradient_checkpointing:
        network.language_model.gradient_checkpointing_enable({"use_reentrant": False})
        network.language_model.train()  # transformers checkpoints in training mode only; a frozen Llama has no dropout
    elif any(getattr(part, "gradient_checkpointing", False) for part in network.language_model.modules()):
        network.language_model.gradient_checkpointing_disable()


def _add_lora(language_model: nn.Module, lora: Lora) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=[*lora.targets])
    try:
        inject_adapter_in_model(config, language_model)
    except ValueError as error:
        raise ConfigError(f"LoRA: {error} Name modules of the language model in trainable.lora.targets.") from error
    for name, parameter in language_model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(torch.float32)
            parameter.requires_grad_(True)
