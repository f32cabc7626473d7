"""Which weights a run changes. The rest is frozen: no gradient, no optimiser state, in no checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from vigc.model.adapters import MARK, Lora, add_lora
from vigc.model.network import Network
from vigc.platform.records import ConfigError


@dataclass(frozen=True)
class Trainable:
    """The paper trains the Q-Former, its queries and the projection; InstructBLIP's variant the vision norm, too."""

    qformer: bool = True  # with the query tokens and the text branch
    projection: bool = True
    vision_norm: bool = False  # the LayerNorm after the vision transformer (LAVIS: ln_vision)
    vision: bool = False
    language_model: bool = False
    lora: Lora | None = None  # adapters in the language model

    @property
    def beginnings(self) -> tuple[str, ...]:
        """How the names of the trained weights begin, adapters aside."""
        chosen = {
            "query_tokens": self.qformer,
            "qformer.": self.qformer,
            "language_projection.": self.projection,
            "vision_model.post_layernorm.": self.vision_norm and not self.vision,
            "vision_model.": self.vision,
            "language_model.": self.language_model,
        }
        return tuple(name for name, is_trained in chosen.items() if is_trained)


def set_trainable(network: Network, wanted: Trainable) -> list[str]:
    """Freezes everything, then frees what is wanted, in fp32, and puts LoRA adapters in; gives the trained names.

    Raises:
        ConfigError: nothing is trainable, or LoRA and the whole language model are both asked for.
        ModelError: LoRA has a target that the language model has not.
    """
    if wanted.lora is not None and wanted.language_model:
        raise ConfigError("LoRA adapts a frozen language model; switch off trainable.language_model or trainable.lora.")
    if wanted.lora is not None:
        add_lora(network, wanted.lora)
    model = network.model.requires_grad_(False).eval()
    names = []
    for name, parameter in model.named_parameters():
        if name.startswith(wanted.beginnings) or MARK in name:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
            names.append(name)
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
