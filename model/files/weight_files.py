"""The files that hold a model's weights: which they are, and one hash of them. Standard library only, so that a run can
be recognised without torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from vigc.platform.records import ModelError

NOT_WEIGHTS = ("training_args.bin", "optimizer.bin", "scheduler.bin")


def find_weights(folder: Path) -> list[Path]:
    """The weight files of a model folder in sorted order: its safetensors, or, where it has none, its torch pickles.

    Raises:
        ModelError: there are none.
    """
    for pattern in ("*.safetensors", "*.bin"):
        if found := sorted(file for file in folder.glob(pattern) if file.name not in NOT_WEIGHTS):
            return found
    raise ModelError(
        f"{folder}: no weights there (*.safetensors). A model folder is what transformers' save_pretrained writes."
    )


def hash_files(files: Iterable[Path]) -> str:
    """sha256 of the files' bytes, one after the other, in hex.

    Raises:
        ModelError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for file in files:
        try:
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 24):
                    digest.update(chunk)
        except OSError as error:
            raise ModelError(f"{file}: the weights cannot be read ({error.strerror}).") from error
    return digest.hexdigest()
