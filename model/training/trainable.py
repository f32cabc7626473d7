"""Which weights a run changes. The rest is frozen: no gradient, no optimiser state, in no checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from vigc.model.weights.adapters import MARK, Lora, add_lora
from vigc.model.weights.trainable_model import TrainableModel
from vigc.platform.records import ConfigError

PARTS = ("qformer", "projection", "vision_norm", "vision", "language_model")


@dataclass(frozen=True)
class Trainable:
    """The paper trains the Q-Former, its queries and the projection; InstructBLIP's variant the vision norm, too."""

    qformer: bool = True  # with the query tokens and the text branch
    projection: bool = True
    vision_norm: bool = False  # the LayerNorm after the vision transformer (LAVIS: ln_vision)
    vision: bool = False
    language_model: bool = False
    lora: Lora | None = None  # adapters in the language model

    def beginnings(self, network: TrainableModel) -> tuple[str, ...]:
        """How the names of the trained weights begin, adapters aside.

        Raises:
            ConfigError: a part that this model does not have.
        """
        wanted = [part for part in PARTS if getattr(self, part)]
        if missing := [part for part in wanted if part not in network.parts]:
            raise ConfigError(
                f"{network.name} has no {missing[0]}, only {', '.join(network.parts)}; "
                f"--set trainable.{missing[0]}=false."
            )
        if self.vision and "vision_norm" in wanted:
            wanted.remove("vision_norm")  # it is in the vision model
        names = [name for name, _ in network.model.named_parameters()]
        chosen = (beginning for part in wanted for beginning in network.parts[part])
        # A head that shares the embeddings' weights has no name of its own.
        return tuple(one for one in chosen if any(name.startswith(one) for name in names))


def set_trainable(network: TrainableModel, wanted: Trainable) -> list[str]:
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
    beginnings = wanted.beginnings(network)
    for name, parameter in model.named_parameters():
        if name.startswith(beginnings) or MARK in name:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
            names.append(name)
    if not names:
        raise ConfigError("Nothing is trainable; switch on one of trainable.qformer, projection, vision, lora …")
    return names


def set_modes(network: TrainableModel, *, gradient_checkpointing: bool) -> None:
    """Dropout where weights are trained; frozen parts stay as at inference. Checkpointing recomputes the language
    model's layers in the backward pass instead of keeping their activations.
    """
    network.model.eval()
    vision, *others = network.blocks
    for part in (vision, *others):
        if any(p.requires_grad for p in part.parameters()):
            part.train()
    if not any(p.requires_grad for p in network.vision_encoder.parameters()):
        vision.eval()
    if gradient_checkpointing:
        network.language_model.gradient_checkpointing_enable({"use_reentrant": False})
        network.language_model.train()  # transformers checkpoints in training mode only; a frozen Llama has no dropout
    elif any(getattr(part, "gradient_checkpointing", False) for part in network.language_model.modules()):
        network.language_model.gradient_checkpointing_disable()
