"""What training learns from: questions about images with their answers, read from the files the field has.

Each format has its file; `open_instructions` recognises which it is. Every record is checked when it is read, and what
is wrong with one names the file and the record.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vigc.platform.instructions.dataset import is_dataset, read_dataset
from vigc.platform.instructions.llava import read_llava
from vigc.platform.records import InputError, Instruction, Kind


def open_instructions(path: str, *, images: str | None = None, kind: Kind | None = None) -> Iterator[Instruction]:
    """Records of a file in LLaVA's form (*.json), or of a directory that `vigc generate` wrote.

    Args:
        images: the folder that image names of the file are below.
        kind: of all records, where the file does not say it.
    Raises:
        InputError: no such path, another format, or a record that cannot be used.
    """
    place = Path(path).expanduser()
    if is_dataset(place):
        return read_dataset(place)
    if place.is_file() and place.suffix == ".json":
        return read_llava(place, images, kind)
    reason = "is neither a .json file nor a directory of `vigc generate`" if place.exists() else "is not there"
    raise InputError(f"{path} {reason}. Training reads LLaVA's JSON files and the OUT of `vigc generate --out OUT`.")
