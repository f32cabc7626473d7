"""`vigc export`: a file that a trainer reads, checked after it is written if asked for."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from vigc.platform.exports import FORMATS, export
from vigc.platform.records import StoreError
from vigc.platform.storage import open_file
from vigc.platform.store import Store

NUM_PROBLEMS = 5


@dataclass(frozen=True)
class Exported:
    file: str
    num_examples: int
    image_folder: str | None  # what the file's image paths are relative to


def run_export(out: str | Path, format: str, file: str | Path | None = None, *, check: bool = False) -> Exported:
    """Writes `file`, by default OUT/exports/FORMAT.json.

    Args:
        check: read the file back and compare it with the format's rules, and with the images where they are on disk.
    Raises:
        ConfigError: there is no such format.
        StoreError: no data set, a file that cannot be written, or one that fails the check.
    """
    store = Store(out)
    folder, name = open_file(f"{store}/exports/{format}.json" if file is None else file)
    target = f"{folder}/{name}"
    num_examples = export(store, format, target)
    image_folder = _image_folder(store)
    on_this_machine = image_folder if image_folder and "://" not in image_folder else None
    if check and (problems := FORMATS[format].validate(target, on_this_machine)):
        raise StoreError(f"{target} has {len(problems)} problems: {' '.join(islice(problems, NUM_PROBLEMS))}")
    return Exported(target, num_examples, image_folder)


def _image_folder(store: Store) -> str | None:
    """Where the images are: what is left of a row's address without its image_id."""
    for row in store.rows(["image_id", "uri"]):
        if str(row["uri"]).endswith(f"/{row['image_id']}"):
            return str(row["uri"]).removesuffix(f"/{row['image_id']}")
    return None
