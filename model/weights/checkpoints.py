"""Checkpoints that hold what was trained and nothing else, and their way back into a whole model.

A folder with `weights.safetensors` and `checkpoint.json`. The frozen weights are not copied: the JSON names the base
and its hash, so that a checkpoint never goes onto another model unnoticed. For the 7B model that is 378 MB in bf16
instead of 16 GB.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from vigc.model.files.loading import DTYPES
from vigc.model.files.stored_tensors import first_line, listed, read_safetensors, require_same
from vigc.model.files.weight_files import hash_files
from vigc.model.weights.adapters import MARK, Lora, adapter_shapes, add_lora, lora_of, merge_lora, plain_name
from vigc.model.weights.model_folders import base_hash, require_dtype, require_free, save_network
from vigc.model.weights.trainable_model import T, TrainableModel, renamed
from vigc.platform.records import ModelError

FORMAT, VERSION = "vigc trained weights", 1
WEIGHTS_FILE, ABOUT_FILE = "weights.safetensors", "checkpoint.json"


@dataclass(frozen=True, slots=True)
class About:
    """What a checkpoint says of itself."""

    base: str  # the model it was trained from: folder or hub id
    base_sha256: str  # of that model's weights: see `base_hash`
    trainable: tuple[str, ...]  # beginnings of names; every parameter that starts so is in the checkpoint
    recipe: str
    step: int
    lora: Lora | None = None  # the adapters in the checkpoint, beside what `trainable` names
    details: Mapping[str, Any] = field(default_factory=dict)  # configuration, metrics: whatever JSON can hold


def trained_tensors(network: TrainableModel, trainable: Iterable[str]) -> dict[str, Tensor]:
    """What a checkpoint has to hold: the parameters whose names start with one of `trainable`, and all adapters.

    Raises:
        ModelError: a beginning that no parameter has.
    """
    beginnings = tuple(trainable)
    parameters = {plain_name(name): parameter for name, parameter in network.model.named_parameters()}
    for beginning in beginnings:
        if not any(name.startswith(beginning) for name in parameters):
            raise ModelError(f"{network.name}: no parameter's name starts with {beginning!r}, so it cannot be trained.")
    return {name: p.detach() for name, p in parameters.items() if name.startswith(beginnings) or MARK in name}


def save_trained(folder: str | Path, tensors: Mapping[str, Tensor], about: About, *, dtype: str | None = None) -> Path:
    """Writes a checkpoint. The folder appears when it is complete; a checkpoint that was there before is replaced.

    Args:
        tensors: as `trained_tensors` gives them; peft's wrapping names are understood too.
        dtype: what to store them in (a name of DTYPES); None leaves them as they are.
    Raises:
        ModelError: tensors that `about` does not announce, or empty ones; something else is at `folder`; it cannot be
            written.
    """
    require_dtype(dtype)
    target = Path(folder).absolute()
    stored = {
        plain_name(name): tensor.detach().to("cpu", DTYPES[dtype] if dtype else tensor.dtype).contiguous()
        for name, tensor in tensors.items()
    }
    _require_announced(target, stored, about)
    if os.path.lexists(target) and not (target / ABOUT_FILE).is_file():
        raise ModelError(f"{target} exists and is no checkpoint. Choose another folder.")
    temporary, old = (target.with_name(f".{target.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    try:
        temporary.mkdir(parents=True)
        save_file(stored, temporary / WEIGHTS_FILE, metadata={"format": "pt"})
        described = {
            "format": FORMAT,
            "version": VERSION,
            **asdict(about),
            "weights": {
                "sha256": hash_files([temporary / WEIGHTS_FILE]),
                "dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in stored.values()}),
                "num_tensors": len(stored),
                "num_parameters": sum(tensor.numel() for tensor in stored.values()),
            },
        }
        (temporary / ABOUT_FILE).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        for file in temporary.iterdir():
            _sync(file)
        if target.exists():
            os.replace(target, old)
        os.replace(temporary, target)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError, RuntimeError, TypeError) as error:
        raise ModelError(f"{folder}: the checkpoint cannot be written ({first_line(error)}).") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def read_about(folder: str | Path) -> About:
    """What a checkpoint says of itself, without its weights.

    Raises:
        ModelError: no checkpoint there, or one of another version.
    """
    return _parse(Path(folder) / ABOUT_FILE)[0]


def load_trained(network: T, folder: str | Path, *, known_base_hash: str | None = None) -> T:
    """Puts a checkpoint's weights onto its base, all or nothing. Adapters are added where the network has none.

    Args:
        network: the base as `load_network` gives it, or with the checkpoint's adapters added.
        known_base_hash: `base_hash(network)`, where the caller has it; hashing reads all the files again.
    Returns:
        the network under a name that says so; its weights are those of no folder until `save_network` makes one.
    Raises:
        ModelError: the checkpoint is damaged, of another base, or its tensors are not those it announces. The network
            is as it was.
    """
    place = Path(folder)
    about, sha256 = _parse(place / ABOUT_FILE)
    weights = place / WEIGHTS_FILE
    if hash_files([weights]) != sha256:
        raise ModelError(f"{weights}: not the file that {ABOUT_FILE} describes: its hash differs. Get both again.")
    actual = known_base_hash or base_hash(network)
    if actual != about.base_sha256:
        raise ModelError(
            f"{place} was trained from {about.base} (weights {about.base_sha256[:12]}…), but {network.name} has the "
            f"weights {actual[:12]}…. Load the base that it was trained from."
        )
    present = lora_of(network)
    if present is not None and (about.lora is None or not present.same_shape(about.lora)):
        raise ModelError(f"{network.name} has the adapters {present}, {place} was trained with {about.lora or 'none'}.")
    tensors = read_safetensors(weights)
    wanted = {name: tensor.shape for name, tensor in trained_tensors(network, about.trainable).items()}
    if about.lora is not None and present is None:
        wanted |= adapter_shapes(network, about.lora)
    require_same(str(place), {name: tensor.shape for name, tensor in tensors.items()}, wanted)

    if about.lora is not None and present is None:
        add_lora(network, about.lora)
    targets = trained_tensors(network, about.trainable)
    with torch.no_grad():
        for name, tensor in tensors.items():
            targets[name].copy_(tensor)
    return renamed(network, f"{network.name} + {place}")


def merge(
    base: T,
    checkpoint: str | Path,
    out: str | Path,
    *,
    dtype: str | None = None,
    known_base_hash: str | None = None,
) -> T:
    """Writes base and checkpoint as one whole model, adapters added into the weights, for `load_network`.

    Args:
        base: the network that the checkpoint was trained from. It is changed on the way, to save a second copy.
        dtype: see `save_network`.
    Returns:
        the merged network.
    Raises:
        ModelError: see `load_trained` and `save_network`.
    """
    require_free(out)
    require_dtype(dtype)
    about = read_about(checkpoint)
    network = load_trained(base, checkpoint, known_base_hash=known_base_hash)
    if about.lora is not None:
        merge_lora(network)
    origin = {"base": about.base, "checkpoint": _read(Path(checkpoint) / ABOUT_FILE)}
    return save_network(network, out, origin, dtype=dtype)


def _parse(file: Path) -> tuple[About, str]:
    """What the file says of the checkpoint, and the sha256 of its weights."""
    content = _read(file)
    if content.get("format") != FORMAT:
        raise ModelError(f"{file}: not a description of trained weights. A checkpoint is what `vigc train` writes.")
    if content.get("version") != VERSION:
        raise ModelError(
            f"{file}: version {content.get('version')!r} of the format, this program reads {VERSION}. Update it."
        )
    try:
        lora = content["lora"]
        about = About(
            base=content["base"],
            base_sha256=content["base_sha256"],
            trainable=tuple(content["trainable"]),
            recipe=content["recipe"],
            step=content["step"],
            lora=lora and Lora(**{**lora, "targets": tuple(lora["targets"])}),
            details=content["details"],
        )
        return about, str(content["weights"]["sha256"])
    except (KeyError, TypeError) as error:
        raise ModelError(f"{file}: {error} is missing or of another form. Get the checkpoint again.") from error


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise ModelError(f"{file.parent}: no checkpoint there ({file.name}). Check the path.") from error
    except OSError as error:
        raise ModelError(f"{file}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise ModelError(f"{file}: not JSON ({error}). Get the checkpoint again.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file}: not a description of trained weights. A checkpoint is what `vigc train` writes.")
    return content


def _require_announced(target: Path, tensors: Mapping[str, Tensor], about: About) -> None:
    adapters = [name for name in tensors if MARK in name]
    other = [name for name in tensors if MARK not in name and not name.startswith(about.trainable)]
    empty = [name for name, tensor in tensors.items() if not tensor.numel()]
    lacking = [beginning for beginning in about.trainable if not any(name.startswith(beginning) for name in tensors)]
    problems = []
    if bool(adapters) != (about.lora is not None):
        problems.append(f"{len(adapters)} adapter tensors, but lora is {about.lora}")
    if other:
        problems.append(f"{len(other)} are not announced as trainable ({listed(other)})")
    if lacking:
        problems.append(f"none starts with {listed(lacking)}")
    if empty:
        problems.append(f"{len(empty)} are empty ({listed(empty)}); a sharded model has to be gathered first")
    if problems or not tensors:
        raise ModelError(f"{target}: not what was trained: {'; '.join(problems) or 'no tensor'}. Nothing was written.")


def _sync(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
