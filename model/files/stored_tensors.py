"""Tensors as they lie on disk, read without running anything that a file brings along.

safetensors hold numbers only. A torch pickle can hold code: it goes through torch's weights-only loader, and a file
that needs more than that is refused with the name of what it wanted.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vigc.model.files.weight_files import find_weights
from vigc.platform.records import ModelError

MAX_LISTED = 20
DAMAGED = "The file is damaged or was not copied completely. Get it again."


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The weights of a torch pickle (its `model` or `state_dict` entry, or all of it), left in the file until used.

    Raises:
        ModelError: no such file, damaged, with code in it, or without named tensors.
    """
    try:
        is_zip = _require_whole(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise _refusal(path, error) from error
    except OSError as error:
        raise ModelError(f"{path}: the file cannot be read ({error.strerror}). Check the path.") from error
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path}: no torch file ({first_line(error)}). {DAMAGED}") from error
    for entry in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(entry), dict):
            content = content[entry]
            break
    if not isinstance(content, dict) or not content:
        raise ModelError(f"{path}: holds no weights, but a {type(content).__name__}. Pass a file with a state dict.")
    for key, tensor in content.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            raise ModelError(
                f"{path}: {key!r} is a {type(tensor).__name__} and no named tensor. Pass a file with a state dict, "
                "bare or as its entry 'model'."
            )
    return content


def read_safetensors(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    """The tensors of a safetensors file whose names are `wanted`.

    Raises:
        ModelError: no such file, or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in filter(wanted, file.keys())}
    except OSError as error:
        raise ModelError(f"{path}: the file cannot be read ({error.strerror or error}). Check the path.") from error
    except SafetensorError as error:
        raise ModelError(f"{path}: no safetensors file ({first_line(error)}). {DAMAGED}") from error


def read_any(path: Path, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """The `wanted` tensors of a torch pickle, a safetensors file, or a folder with the weights of a model.

    Raises:
        ModelError: no such place, or a file there that cannot be read.
    """
    if path.is_dir():
        found = [read_any(file, wanted) for file in find_weights(path)]
        return {name: tensor for tensors in found for name, tensor in tensors.items()}
    if path.suffix == ".safetensors":
        return read_safetensors(path, wanted)
    return {name: tensor for name, tensor in read_pickle(path).items() if wanted(name)}


def require_same(place: str, found: Mapping[str, torch.Size], wanted: Mapping[str, torch.Size]) -> None:
    """Raises ModelError, listing the differences, when names or shapes are not those of the model."""
    problems = {
        "missing": [name for name in wanted if name not in found],
        "unknown": [name for name in found if name not in wanted],
        "of another shape": [
            f"{name} is {list(shape)}, the model's {list(wanted[name])}"
            for name, shape in found.items()
            if shape != wanted.get(name, shape)
        ],
    }
    told = "; ".join(f"{len(names)} {title} ({listed(names)})" for title, names in problems.items() if names)
    if told:
        raise ModelError(f"{place}: the tensors do not fit the model: {told}. Nothing was loaded.")


def listed(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - MAX_LISTED} more" if len(every) > MAX_LISTED else ""
    return ", ".join(every[:MAX_LISTED]) + more


def first_line(error: Exception) -> str:
    return next((line.strip(" .") for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _require_whole(path: Path) -> bool:
    """Whether the file is a zip archive, as torch writes since 1.6. Its checksums are compared here: torch does not,
    and a flipped bit would go unnoticed into the weights.
    """
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            if file.read(4) == b"PK\x03\x04":
                raise ModelError(f"{path}: the file ends too early. {DAMAGED}")
        return False
    with zipfile.ZipFile(path) as archive:
        if (broken := archive.testzip()) is not None:
            raise ModelError(f"{path}: the checksum of {broken!r} inside is wrong. {DAMAGED}")
    return True


def _refusal(path: Path, error: pickle.UnpicklingError) -> ModelError:
    reason = str(error)
    wanted = re.findall(r"GLOBAL (\S+)", reason)
    if not wanted:
        return ModelError(f"{path}: no torch file. {DAMAGED}")
    if "is blocked" in reason:
        return ModelError(
            f"{path}: the file would run {wanted[0]} when it is loaded. Do not use it; nothing was loaded."
        )
    if zipfile.is_zipfile(path):  # only here can torch list all of them
        wanted = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    return ModelError(
        f"{path}: beside tensors the file wants {', '.join(wanted)}, which could run code, so nothing was loaded. "
        "If you trust where the file is from, keep its weights alone, on a machine that has those classes: "
        "python -c \"import torch; c = torch.load('IN.pth', map_location='cpu', weights_only=False); "
        "torch.save({'model': c['model']}, 'OUT.pth')\""
    )
