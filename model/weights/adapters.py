"""LoRA adapters on the language model (arXiv 2106.09685), by peft: put in, recognised, merged away.

peft replaces a layer by one that holds it as `base_layer`, so the names of frozen weights change; `plain_name` gives
the names that a checkpoint uses. peft is imported where adapters are used and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vigc.model.weights.trainable_model import TrainableModel
from vigc.platform.records import ModelError

if TYPE_CHECKING:  # a recipe can be read without torch
    import torch
    from torch import nn

ADAPTER = "default"
MARK = ".lora_"


@dataclass(frozen=True, slots=True)
class Lora:
    """Adapters on these linear layers; the defaults are those of the paper's LoRA variant (model/README.md,
    "Training").
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.1
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")

    def same_shape(self, other: Lora) -> bool:
        """Whether the same tensors mean the same in both; dropout acts in training only."""
        return (self.rank, self.alpha, {*self.targets}) == (other.rank, other.alpha, {*other.targets})


def add_lora(network: TrainableModel, lora: Lora) -> None:
    """Puts fresh adapters, which change nothing yet, into the network's language model and makes them trainable.

    Raises:
        ModelError: it has adapters already, or a target names no linear layer.
    """
    if lora_of(network) is not None:
        raise ModelError(f"{network.name}: the language model has adapters already. Merge them, or load it anew.")
    _targets(network, lora)
    from peft import LoraConfig, LoraModel

    language_model = network.language_model
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(lora.targets)
    )
    LoraModel(language_model, config, ADAPTER)
    language_model.train(language_model.training)  # the new layers start in training mode, with dropout


def lora_of(network: TrainableModel) -> Lora | None:
    """The adapters that the network's language model has."""
    config = getattr(network.language_model, "peft_config", {}).get(ADAPTER)
    if config is None:
        return None
    return Lora(config.r, config.lora_alpha, config.lora_dropout, tuple(sorted(config.target_modules)))


def merge_lora(network: TrainableModel) -> None:
    """Adds the adapters to the weights they stand beside, and removes them."""
    from peft.tuners.lora import LoraLayer

    language_model = network.language_model
    for path, layer in list(language_model.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge()
            language_model.set_submodule(path, layer.get_base_layer())
    del language_model.peft_config


def plain_name(name: str) -> str:
    """A parameter's name without what peft puts between its parts."""
    return name.replace(".base_layer.", ".").replace(".base_model.model.", ".")


def adapter_shapes(network: TrainableModel, lora: Lora) -> dict[str, torch.Size]:
    """Name and shape of every tensor that `add_lora` would add.

    Raises:
        ModelError: a target names no linear layer.
    """
    import torch

    shapes = {}
    for path, layer in _targets(network, lora):
        shapes[f"{network.language_path}.{path}.lora_A.{ADAPTER}.weight"] = torch.Size([lora.rank, layer.in_features])
        shapes[f"{network.language_path}.{path}.lora_B.{ADAPTER}.weight"] = torch.Size([layer.out_features, lora.rank])
    return shapes


def _targets(network: TrainableModel, lora: Lora) -> list[tuple[str, nn.Linear]]:
    from torch import nn

    layers = [(path, layer) for path, layer in network.language_model.named_modules() if isinstance(layer, nn.Linear)]
    for target in lora.targets:
        if not any(path.split(".")[-1] == target for path, _ in layers):
            names = sorted({path.split(".")[-1] for path, _ in layers})
            raise ModelError(
                f"{network.name}: LoRA has no target {target!r}: linear layers of the language model are called "
                f"{', '.join(names)}."
            )
    return [(path, layer) for path, layer in layers if path.split(".")[-1] in lora.targets]
