"""Trained weights put back into their base: a full model that loads anywhere InstructBLIP loads."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import InstructBlipConfig

from vigc.model.network import load_network
from vigc.model.training.parallel import copy_into
from vigc.model.training.trainable import Trainable, set_trainable


def merge(base: str, trained: Path, wanted: Trainable, out: Path, saved_as: str = "base") -> None:
    """Writes the folder `out`: the base's files, its weights with those of `trained` in place of its own, in fp16 or
    in the base's dtype; adapters are added into the matrices they adapt.

    Raises:
        ModelError: the trained weights do not belong to this base.
    """
    stored = InstructBlipConfig.from_pretrained(base).dtype
    dtype = stored if saved_as == "base" and isinstance(stored, torch.dtype) else torch.float16
    network = load_network(base, device="cpu", dtype="float32")
    set_trainable(network, wanted)
    parameters = {name: p for name, p in network.model.named_parameters() if p.requires_grad}
    copy_into(parameters, load_file(trained / "weights.safetensors"))
    if wanted.lora is not None:
        from peft.tuners.lora import LoraLayer

        for name, layer in [*network.language_model.named_modules()]:
            if isinstance(layer, LoraLayer):
                layer.merge()
                network.language_model.set_submodule(name, layer.get_base_layer())
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    network.save(part, dtype)
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)
