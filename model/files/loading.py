"""What loading any model has in common: files that are there, weights that all fit, errors that say what is wrong."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from vigc.platform.records import ModelError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(device: str = "auto", dtype: str = "auto") -> tuple[torch.device, torch.dtype]:
    """cuda and bf16 where there is a GPU, else cpu and fp32; both can be forced.

    Raises:
        ModelError: an unknown name, or a device that is not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"The device {device!r} cannot be used ({str(error).splitlines()[0]}). Use --device auto, cpu or cuda."
        ) from error
    if dtype == "auto":
        dtype = "bfloat16" if chosen.type == "cuda" else "float32"
    if dtype not in DTYPES:
        raise ModelError(f"The dtype {dtype!r} is unknown; use auto, {', '.join(DTYPES)}.")
    return chosen, DTYPES[dtype]


def load_weights(name: str, kind: Any, dtype: torch.dtype) -> Any:
    """A model of transformers with every weight in place.

    Raises:
        ModelError: weights are missing, unknown, or of another shape.
    """
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.CRITICAL)  # its report of bad keys is replaced by ours
    transformers_logging.disable_progress_bar()
    try:
        model, info = read_part(
            name,
            "weights",
            lambda: kind.from_pretrained(
                name,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported with the others below, instead of as a riddle
            ),
        )
    finally:
        transformers_logging.set_verbosity(level)
    _require_all_weights(name, info)
    return model


def model_type(name: str) -> str:
    """That the configuration names, such as "instructblip" or "llava"."""
    from transformers import PretrainedConfig

    config, _ = read_part(name, "configuration", lambda: PretrainedConfig.get_config_dict(name))
    return str(config.get("model_type"))


def stored_dtype(config: Any) -> torch.dtype:
    """That the weights of a configuration are stored in."""
    return config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32


def require_files(name: str) -> None:
    folder = Path(name)
    looks_like_path = folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if folder.exists() and not (folder / "config.json").is_file():
        raise ModelError(
            f"{name}: no config.json there. A model folder holds config.json, weights (safetensors), tokenizer files "
            "and qformer_tokenizer/."
        )
    if not folder.exists() and looks_like_path:
        raise ModelError(
            f"{name}: no such folder. Pass the folder of a saved model, or a hub id such as "
            "Salesforce/instructblip-vicuna-7b."
        )


def read_part(name: str, what: str, load: Any) -> Any:
    try:
        return load()
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(
            f"{name}: the {what} could not be loaded: {first} "
            "(a hub id needs network access or an earlier download; a folder needs every file of a saved model)."
        ) from error


def _require_all_weights(name: str, info: dict[str, Any]) -> None:
    problems = []
    for title, keys in (
        ("missing", info["missing_keys"]),
        ("unknown", info["unexpected_keys"]),
        ("of another shape", info["mismatched_keys"]),
    ):
        if keys:
            shown = [k if isinstance(k, str) else k[0] for k in sorted(keys, key=str)]
            problems.append(f"{len(shown)} {title} ({', '.join(shown[:3])}{', …' if len(shown) > 3 else ''})")
    if problems or info.get("error_msgs"):
        raise ModelError(
            f"{name}: the weights do not fit the configuration: {'; '.join(problems) or info['error_msgs']}. "
            "Nothing was loaded."
        )
