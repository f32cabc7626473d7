"""Weights in the form of LAVIS: the `.pth` files of VIGC, InstructBLIP and MiniGPT-4, read and written.

Such a file is a torch pickle of `{model, optimizer, config, scaler, iters | epoch}`, or the bare state dict; only the
weights are taken. `lavis_names` says what is called how. Every key is accounted for before a single weight of a network
changes.

A MiniGPT-4 file holds the projection alone, and the VIGC files that started from MiniGPT-4 hold no `ln_vision`. LAVIS
leaves what is missing as it happens to be (model/README.md, Q16); here the caller has to say where it comes from.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import InstructBlipConfig, InstructBlipForConditionalGeneration

from vigc.model.files.stored_tensors import first_line, listed, read_any, read_pickle
from vigc.model.network import Network
from vigc.model.weights.lavis_names import (
    POSITION_IDS,
    Q_BIAS,
    QKV_BIAS,
    V_BIAS,
    block_of,
    is_dropped,
    lavis_name,
    transformers_name,
)
from vigc.platform.records import ModelError

QFORMER = ("query_tokens", "qformer.")
LN_VISION = "vision_model.post_layernorm."
TRAINED = (*QFORMER, "language_projection.", LN_VISION)
FROZEN = ("vision_model.", "language_model.")
IDENTITY, KEEP = "identity", "keep"


class Variant(StrEnum):
    """Which kind of LAVIS file its keys make it. A VIGC file that started from InstructBLIP has the keys of an
    InstructBLIP file and counts as one.
    """

    VIGC = "vigc"  # llm_proj without ln_vision
    INSTRUCTBLIP = "instructblip"  # llm_proj with ln_vision
    MINIGPT4 = "minigpt4"  # llama_proj


@dataclass(frozen=True, slots=True)
class LavisWeights:
    variant: Variant
    state: Mapping[str, Tensor]  # LAVIS names; the tensors lie in the file until they are used


@dataclass(frozen=True, slots=True)
class Fallback:
    """Where weights come from that a file does not hold: see `import_lavis`. None leaves them missing."""

    ln_vision: str | Path | None = None
    qformer: str | Path | None = None


def read_lavis(path: str | Path) -> LavisWeights:
    """The weights of a LAVIS file; optimizer, scaler and configuration stay behind.

    Raises:
        ModelError: no such file, damaged, with code in it, or without a projection to a language model.
    """
    state = read_pickle(Path(path))
    if any(key.startswith("llama_proj.") for key in state):
        return LavisWeights(Variant.MINIGPT4, state)
    if not any(key.startswith("llm_proj.") for key in state):
        raise ModelError(
            f"{path}: neither llm_proj.* (VIGC, InstructBLIP) nor llama_proj.* (MiniGPT-4) is among its {len(state)} "
            f"tensors ({listed(state)}), so it is no file of these models. Pass one of theirs."
        )
    has_ln_vision = any(key.startswith("ln_vision.") for key in state)
    return LavisWeights(Variant.INSTRUCTBLIP if has_ln_vision else Variant.VIGC, state)


def import_lavis(
    state: Mapping[str, Tensor],
    config: InstructBlipConfig,
    missing: Fallback = Fallback(),
    *,
    place: str = "The LAVIS weights",
) -> dict[str, Tensor]:
    """The same weights under transformers' names, checked against the model they are for.

    Queries, Q-Former (text branch included), projection and ln_vision have to be there. The frozen vision and language
    models may be there, each whole.

    Args:
        missing: where ln_vision, or what lacks of queries and Q-Former, comes from when it is not in `state`: the path
            of a model that has it (LAVIS file, safetensors file, folder of the Hugging Face form), or "keep" to leave
            it out of the result, so that a network keeps its own. `ln_vision` may be "identity", which is what VIGC's
            own code ends up with where the file has none.
        place: where the weights are from, for errors.
    Raises:
        ModelError: keys that are unknown or missing, tensors of another shape, or values that are no finite numbers.
    """
    with torch.device("meta"):
        model = InstructBlipForConditionalGeneration(config)
    return _import(state, model, missing, place)


def load_lavis(network: Network, path: str | Path, missing: Fallback = Fallback()) -> Network:
    """Puts the weights of a LAVIS file into the network's model, all or nothing.

    Args:
        missing: see `import_lavis`.
    Returns:
        the network under a name that says so: it is no longer the model of that folder or hub id, and no folder holds
        it until `save_network` makes one.
    Raises:
        ModelError: the file cannot be read or does not fit. The network is as it was.
    """
    tensors = _import(read_lavis(path).state, network.model, missing, str(path))
    target = network.model.state_dict()
    with torch.no_grad():
        for name, tensor in tensors.items():
            target[name].copy_(tensor)
    return replace(network, name=f"{network.name} + {path}")


def export_lavis(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under LAVIS names, as VIGC and InstructBLIP files have them.

    The vision model's key bias is left out, as in every LAVIS file: it adds the same amount to all scores of a query,
    so the softmax does not see it.

    Args:
        state: some or all tensors of an InstructBlipForConditionalGeneration, under its names.
    Raises:
        ModelError: names that LAVIS has no word for.
    """
    exported: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in state.items():
        key = lavis_name(name)
        if key is None or ".lora_" in name:
            unknown.append(name)
        elif block := block_of(QKV_BIAS, key):
            query, _, value = tensor.chunk(3)
            exported |= {Q_BIAS.replace("#", block): query, V_BIAS.replace("#", block): value}
        else:
            exported[key] = tensor
    if unknown:
        raise ModelError(
            f"{len(unknown)} tensors have no name in LAVIS ({listed(unknown)}). Merge adapters into the model first."
        )
    positions = exported.get("Qformer.bert.embeddings.position_embeddings.weight")
    if positions is not None:
        exported[POSITION_IDS] = torch.arange(len(positions), device=positions.device)[None]
    return exported


def write_lavis(
    path: str | Path, network: Network, *, with_ln_vision: bool = True, with_frozen: bool = False
) -> list[str]:
    """Writes a file that LAVIS loads, `{"model": …}`, whatever was there before; returns its keys.

    Args:
        with_ln_vision: False where it is not trained, as in VIGC's files that started from MiniGPT-4.
        with_frozen: also the vision and language models, in the dtype they have; the rest is written in fp32.
    Raises:
        ModelError: adapters are still beside the weights, or the file cannot be written.
    """
    state = network.model.state_dict()
    if adapters := [name for name in state if ".lora_" in name]:
        raise ModelError(
            f"{network.name}: {len(adapters)} adapter tensors are no part of a LAVIS file. Merge them first."
        )
    chosen = {
        name: tensor.float() if name.startswith(TRAINED) else tensor
        for name, tensor in state.items()
        if name.startswith(TRAINED if not with_frozen else (*TRAINED, *FROZEN))
        and (with_ln_vision or not name.startswith(LN_VISION))
    }
    exported = {key: tensor.detach() for key, tensor in export_lavis(chosen).items()}
    target = Path(path).absolute()
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        torch.save({"model": exported}, temporary)
        os.replace(temporary, target)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError for a missing folder and for a full disk
        raise ModelError(
            f"{path}: the weights cannot be written ({first_line(error)}). Choose another place."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return list(exported)


def _import(state: Mapping[str, Tensor], model: Any, missing: Fallback, place: str) -> dict[str, Tensor]:
    known: dict[str, Tensor] = model.state_dict()
    keys, tensors, unknown = _to_transformers(state, known)
    # Parameters, not the state dict: there, weights that are tied have two names.
    wanted = [name for name, _ in model.named_parameters() if _is_wanted(name, tensors)]
    advice = ""
    for what, prefixes, source in (
        ("ln_vision", (LN_VISION,), missing.ln_vision),
        ("qformer", QFORMER, missing.qformer),
    ):
        lost = {name for name in wanted if name.startswith(prefixes) and name not in tensors}
        if source == KEEP:
            wanted = [name for name in wanted if name not in lost]
        elif lost and source == IDENTITY and what == "ln_vision":
            tensors |= {n: torch.full(known[n].shape, 1.0 if n.endswith(".weight") else 0.0) for n in sorted(lost)}
        elif lost and source is not None:
            tensors |= _read_named(Path(source), lost)
        if lost.intersection(wanted) - tensors.keys():
            choices = f"{KEEP} (the model's own)" + (f", {IDENTITY}," if what == "ln_vision" else "")
            advice += (
                f" Where the missing {what} comes from has to be said, with --{what.replace('_', '-')}: {choices} or "
                "the path of a model that has it."
            )
    problems = _problems(
        unknown=unknown,
        missing=[lavis_name(name) or name for name in wanted if name not in tensors],
        of_another_shape=[
            f"{keys.get(name, name)} is {_shape(tensor)}, the model's {_shape(known[name])}"
            for name, tensor in tensors.items()
            if tensor.shape != known[name].shape
        ],
        not_finite_numbers=[keys.get(name, name) for name, tensor in tensors.items() if not _is_finite(tensor)],
    )
    if problems:
        raise ModelError(f"{place}: the weights do not fit the model: {problems}.{advice} Nothing was loaded.")
    return tensors


def _to_transformers(
    state: Mapping[str, Tensor], known: Mapping[str, Tensor]
) -> tuple[dict[str, str], dict[str, Tensor], list[str]]:
    """The LAVIS key of each transformers name, its tensor, and the keys that are none of the model's."""
    keys: dict[str, str] = {}
    tensors: dict[str, Tensor] = {}
    unknown = []
    for key, tensor in _with_joined_biases(state).items():
        if is_dropped(key):
            continue
        name = transformers_name(key)
        if name is None or name not in known or name in keys:
            unknown.append(key)
        else:
            keys[name], tensors[name] = key, tensor
    return keys, tensors, unknown


def _with_joined_biases(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    joined = dict(state)
    for key in state:
        block = block_of(Q_BIAS, key)
        value_key = V_BIAS.replace("#", block or "")
        if block and value_key in state and state[key].ndim == state[value_key].ndim == 1:
            query, value = joined.pop(key), joined.pop(value_key)
            joined[QKV_BIAS.replace("#", block)] = torch.cat([query, torch.zeros_like(value), value])
    return joined


def _is_wanted(name: str, tensors: Mapping[str, Tensor]) -> bool:
    """What is trained, always; the vision or language model when any part of it is there."""
    if name.startswith(TRAINED):
        return True
    part = next(prefix for prefix in FROZEN if name.startswith(prefix))
    return any(other.startswith(part) and not other.startswith(LN_VISION) for other in tensors)


def _read_named(source: Path, wanted: Iterable[str]) -> dict[str, Tensor]:
    """The wanted tensors of a file or folder in either naming, under transformers' names."""
    names = set(wanted)
    found = read_any(source, lambda key: (transformers_name(key) or key) in names)
    return {transformers_name(key) or key: tensor for key, tensor in found.items()}


def _is_finite(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and (tensor.is_meta or bool(torch.isfinite(tensor).all()))


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a single number"


def _problems(**names: list[str]) -> str:
    return "; ".join(f"{len(n)} {title.replace('_', ' ')} ({listed(n)})" for title, n in names.items() if n)
