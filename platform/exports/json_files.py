"""Records as JSON text, one a line: as one list, or by themselves (JSON Lines)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import IO, Any


def write_list(records: Iterable[Mapping[str, Any]], file: IO[str]) -> int:
    """Returns how many records were written."""
    num = 0
    file.write("[")
    for record in records:
        file.write(",\n" if num else "\n")
        json.dump(record, file, ensure_ascii=False)
        num += 1
    file.write("\n]\n")
    return num


def write_lines(records: Iterable[Mapping[str, Any]], file: IO[str]) -> int:
    """Returns how many records were written."""
    num = 0
    for record in records:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
        num += 1
    return num
