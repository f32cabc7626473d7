"""Which model a run uses, without loading it: where it is, the hash of its weights, the form of its images.

Read from the files alone, so that a finished run is recognised without torch. Weights that an earlier run of the same
data set has hashed, and that have not been touched since, are not read again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from vigc.model.embedded import PATH as EMBEDDED
from vigc.model.files.model_folder import require_parts
from vigc.model.files.weight_files import find_weights, hash_files
from vigc.platform.records import ModelError

EMBEDDED_NAME = "embedded"
OF_ONE_SIZE = ("instructblip", "llava")  # types whose images are squares of one size, which `vigc finetune` must know
# What transformers' InstructBlipVisionConfig assumes where config.json does not say.
DEFAULT_SIZES = {"image_size": 224, "patch_size": 14}


class Family(StrEnum):
    """Which way a model is spoken to."""

    INSTRUCTBLIP = "instructblip"  # by engines of this project, in its own words
    CHAT = "chat"  # any other that reads images and text: by a server, in a chat


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """What a model's configuration says, its weights unread."""

    name: str  # "embedded", a hub id, or the name of a folder
    location: str  # what loading takes: an absolute path, a hub id, or the address of an endpoint
    family: Family
    image_size: int  # side of the square images, in pixels; 0: it takes images of many sizes
    patch_size: int  # side of what the vision model reads as one; 0: not known
    commit: str | None = None  # the hub's, where the model is there
    server: str | None = None  # what an endpoint's list says of whoever owns the model, such as "vllm"


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    name: str  # as in ModelPlace, like the next and the sizes
    location: str
    weights: str  # sha256 of the weight files, the hub's commit, or "endpoint"
    family: Family
    image_size: int
    patch_size: int
    files: list[list[Any]]  # name, bytes and mtime_ns of each weight file; empty for a hub id
    server: str | None = None  # as in ModelPlace


def find_model(model: str | None) -> ModelPlace:
    """Looks for a model folder, a hub id, or (None) the embedded model.

    Raises:
        ModelError: no such folder or id, or a folder that lacks a part of a model.
    """
    folder = EMBEDDED if model is None else Path(model).expanduser().absolute()
    if model is None and not folder.is_dir():
        raise ModelError(f"{folder}: the embedded model is not there. Install vigc again, or pass --model.")
    if not folder.exists():
        return _find_on_hub(str(model))
    name = EMBEDDED_NAME if folder == EMBEDDED else folder.name
    if name == EMBEDDED_NAME and folder != EMBEDDED:
        name = f"{folder.parent.name}/{name}"  # anybody's folder of that name is another model
    family, image_size, patch_size = _read(folder / "config.json")
    if family is Family.INSTRUCTBLIP:
        require_parts(folder)
    return ModelPlace(name, str(folder), family, image_size, patch_size)


def is_endpoint(model: str | None) -> bool:
    """Whether a model is the address of a server."""
    return model is not None and "://" in model


def identify(model: str | None) -> ModelIdentity:
    """Finds a model and hashes its weights. Raises as `find_model` and `identify_place`."""
    return identify_place(find_model(model))


def identify_place(place: ModelPlace, earlier_runs: Iterable[Mapping[str, Any]] = ()) -> ModelIdentity:
    """Hashes the weights of a model that was found.

    Args:
        earlier_runs: provenance of runs, which may hold the hash of the same untouched files.
    Raises:
        ModelError: a folder without weights.
    """
    if is_endpoint(place.location):
        weights, files = "endpoint", list[list[Any]]()
    elif place.commit is not None:
        weights, files = f"hub commit {place.commit}", []
    else:
        found = find_weights(Path(place.location))
        files = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in found]
        known = (run["model"]["weights"] for run in earlier_runs if run.get("model", {}).get("files") == files)
        weights = next(known, None) or hash_files(found)
    return ModelIdentity(
        place.name,
        place.location,
        weights,
        place.family,
        place.image_size,
        place.patch_size,
        files,
        server=place.server,
    )


def _find_on_hub(name: str) -> ModelPlace:
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelError(
            f"{name}: no such folder. --model takes the folder of a saved model, a hub id such as "
            "Qwen/Qwen3-VL-8B-Instruct, or the address of an endpoint such as http://localhost:8000/v1."
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
    return ModelPlace(name, name, *_read(config), commit=config.parent.name)


def _read(config: Path) -> tuple[Family, int, int]:
    """The family, and the sides of the images and of their patches, in pixels."""
    try:
        content = json.loads(config.read_bytes())
        vision = content.get("vision_config", {})
        kind = content.get("model_type", "instructblip")
        family = Family.INSTRUCTBLIP if kind == "instructblip" else _family_of(config, content)
        if kind not in OF_ONE_SIZE:
            return family, 0, 0
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
    return family, image, patch


def _family_of(config: Path, content: Mapping[str, Any]) -> Family:
    """Raises ModelError: a model that does not read images, such as a language model alone."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as KNOWN

    kind = content["model_type"]
    has_vision = any(name in content for name in ("vision_config", "visual", "vision_tower", "image_token_id"))
    if kind in KNOWN or has_vision or "auto_map" in content:
        return Family.CHAT
    raise ModelError(
        f"{config.parent}: a model of the type {kind!r}, which does not read images. Pass a model for images and text, "
        "such as Qwen3-VL, Gemma 3, InternVL, LLaVA or InstructBLIP."
    )
