"""Which model a run uses, without loading it: where it is, the hash of its weights, the size of its pictures.

Read from the files alone, so that a finished run is recognised without torch. Weights that an earlier run of the same
data set has hashed, and that have not been touched since, are not read again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vigc.model.embedded import PATH as EMBEDDED
from vigc.model.files.weight_files import find_weights, hash_files
from vigc.platform.records import ModelError

# What transformers' InstructBlipVisionConfig assumes where config.json does not say.
DEFAULT_SIZES = {"image_size": 224, "patch_size": 14}


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """What a model's configuration says, its weights unread."""

    name: str  # "embedded", a hub id, or the name of a folder
    location: str  # what loading takes: an absolute path or a hub id
    image_size: int  # side of the square pictures, in pixels
    patch_size: int  # side of what the vision model reads as one
    commit: str | None = None  # the hub's, where the model is there


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    name: str  # as in ModelPlace, like the next and the sizes
    location: str
    weights: str  # sha256 of the weight files, or the hub's commit
    image_size: int
    patch_size: int
    files: list[list[Any]]  # name, bytes and mtime_ns of each weight file; empty for a hub id


def find_model(model: str | None) -> ModelPlace:
    """Looks for a model folder, a hub id, or (None) the embedded model.

    Raises:
        ModelError: no such folder or id, or a folder without configuration.
    """
    folder = EMBEDDED if model is None else Path(model).expanduser().absolute()
    if model is None and not folder.is_dir():
        raise ModelError(f"{folder}: the embedded model is not there. Install vigc again, or pass --model.")
    if not folder.exists():
        return _find_on_hub(str(model))
    name = "embedded" if folder == EMBEDDED else folder.name
    return ModelPlace(name, str(folder), *_sizes(folder / "config.json"))


def identify(model: str | None, earlier_runs: Iterable[Mapping[str, Any]] = ()) -> ModelIdentity:
    """Finds a model and hashes its weights.

    Args:
        earlier_runs: provenance of runs, which may hold the hash of the same untouched files.
    Raises:
        ModelError: as `find_model`, or a folder without weights.
    """
    place = find_model(model)
    if place.commit is not None:
        weights, files = f"hub commit {place.commit}", list[list[Any]]()
    else:
        found = find_weights(Path(place.location))
        files = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in found]
        known = (run["model"]["weights"] for run in earlier_runs if run.get("model", {}).get("files") == files)
        weights = next(known, None) or hash_files(found)
    return ModelIdentity(place.name, place.location, weights, place.image_size, place.patch_size, files)


def _find_on_hub(name: str) -> ModelPlace:
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelError(
            f"{name}: no such folder. Pass the folder of a saved InstructBLIP model, "
            "or a hub id such as Salesforce/instructblip-vicuna-7b."
        )
    import huggingface_hub as hub

    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        if not isinstance(hub.try_to_load_from_cache(name, "config.json"), str):
            # Asked first because it does not retry: without a network, a download tries for half a minute.
            hub.get_hf_file_metadata(hub.hf_hub_url(name, "config.json"))
        config = Path(hub.hf_hub_download(name, "config.json"))
    except Exception as error:  # the hub's own errors, and those of its HTTP library
        reason = next((line.strip(" .") for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(
            f"{name}: no such folder, and the hub gave nothing for it ({reason}). Check the name, or the network."
        ) from error
    return ModelPlace(name, name, *_sizes(config), commit=config.parent.name)


def _sizes(config: Path) -> tuple[int, int]:
    """Sides of the pictures and of their patches, in pixels."""
    try:
        content = json.loads(config.read_bytes())
        vision = content.get("vision_config", {})
        image, patch = (vision.get(name, value) for name, value in DEFAULT_SIZES.items())
    except FileNotFoundError as error:
        raise ModelError(
            f"{config.parent}: no config.json there. A model folder is what transformers' save_pretrained writes."
        ) from error
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{config}: cannot be read as a model's configuration ({error}). Get the file again."
        ) from error
    for name, size in zip(DEFAULT_SIZES, (image, patch), strict=True):
        if not isinstance(size, int) or size < 1:
            raise ModelError(f"{config}: vision_config.{name} is {size!r}, not a number of pixels. Get the file again.")
    return image, patch
