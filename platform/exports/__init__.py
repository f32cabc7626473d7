"""Training files made from a dataset directory: one module per format, each with `write` and `validate`.

Only kept conversations of images that could be read are exported. The file appears under its name when it is complete,
not before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

from vigc.platform.exports import llava
from vigc.platform.records import ConfigError
from vigc.platform.storage import open_file
from vigc.platform.store import Store


class Format(Protocol):
    """What a format's module offers."""

    def write(self, rows: Iterable[Mapping[str, Any]], file: IO[str]) -> int:
        """Streams the examples of `rows` into `file` and returns how many there were."""
        ...

    def validate(self, path: str | Path, image_folder: str | Path | None = None) -> list[str]:
        """What is wrong with a file, as sentences."""
        ...


FORMATS: dict[str, Format] = {"llava": llava}


def export(store: Store, format: str, out_file: str | Path) -> int:
    """Writes `out_file`, a path or an address, whatever was there before, and returns the number of examples in it.

    Raises:
        ConfigError: there is no such format.
        StoreError: the data set cannot be read, or the file cannot be written.
    """
    if format not in FORMATS:
        raise ConfigError(f"There is no export format {format!r}. Use one of: {', '.join(FORMATS)}.")
    store.existing_passes()
    folder, name = open_file(out_file)
    with folder.new_text(name) as file:
        return FORMATS[format].write(store.rows(["image_id", "status", "conversations"]), file)
