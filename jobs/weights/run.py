"""`vigc weights`: models and what was trained of them, from one form into another.

Everything is loaded on the CPU in the dtype it is stored in, checked before anything is written, and written whole or
not at all.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from vigc.model.files.weight_files import hash_files
from vigc.model.network import STORED, Network, load_network
from vigc.model.weights.checkpoints import ABOUT_FILE, merge, read_about
from vigc.model.weights.lavis import Fallback, load_lavis, write_lavis
from vigc.model.weights.model_folders import ORIGIN, require_dtype, require_free, save_network
from vigc.model.weights.trainable_model import load_trainable_model


@dataclass(frozen=True)
class WeightsResult:
    """What a command made."""

    out: Path
    made_of: dict[str, str]


def merge_checkpoint(
    checkpoint: str | Path, out: str | Path, *, base: str | None = None, dtype: str | None = None
) -> WeightsResult:
    """A whole model: the base with what was trained put in, adapters added to the weights they adapt.

    Args:
        base: where the base is now; None: where it was when it was trained on.
        dtype: of all weights; None: as the base's are stored, and what transformers keeps in fp32 in fp32.
    Raises:
        ModelError: the checkpoint is damaged, the base is not the one it was trained on, or `out` is taken.
    """
    require_free(out)
    require_dtype(dtype)
    source = base or read_about(checkpoint).base
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    merged = merge(load_trainable_model(source, device="cpu", dtype=STORED), checkpoint, out, dtype=dtype)
    return WeightsResult(Path(merged.name), {"base": source, "checkpoint": str(checkpoint)})


def is_merged(checkpoint: Path, out: Path) -> bool:
    """Whether `out` is the model that this checkpoint was merged into."""
    if not (out / ORIGIN).is_file():
        return False
    origin = json.loads((out / ORIGIN).read_bytes())
    return bool(origin.get("checkpoint") == json.loads((checkpoint / ABOUT_FILE).read_bytes()))


def import_lavis(
    file: str, out: str, *, base: str, ln_vision: str | None, qformer: str | None, dtype: str | None
) -> WeightsResult:
    """A whole model: the base with the weights of a LAVIS file in place of its own.

    Raises:
        ModelError: the file is damaged or does not fit the base, or `out` is taken.
    """
    require_free(out)
    require_dtype(dtype)
    sha256 = hash_files([Path(file)])  # first, since the base may take minutes to load
    network = load_lavis(_load(base), file, Fallback(ln_vision, qformer))
    made_of = {"base": base, "lavis": file}
    saved = save_network(network, out, made_of | {"lavis_sha256": sha256}, dtype=dtype)
    return WeightsResult(Path(saved.name), made_of)


def export_lavis(model: str, out: str, *, with_ln_vision: bool, with_frozen: bool) -> tuple[WeightsResult, int]:
    """A file that LAVIS loads, and the number of tensors in it.

    Raises:
        ModelError: no such model, or `out` is taken.
    """
    require_free(out)
    network = _load(model)
    keys = write_lavis(out, network, with_ln_vision=with_ln_vision, with_frozen=with_frozen)
    return WeightsResult(Path(out).absolute(), {"model": model}), len(keys)


def _load(model: str) -> Network:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed, where it is installed, guesses, and says so
    return load_network(model, device="cpu", dtype=STORED)
