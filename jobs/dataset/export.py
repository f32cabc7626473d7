"""`vigc export`: a file or folder that a trainer reads, checked after it is written if asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from vigc.jobs.dataset.config import ExportConfig
from vigc.platform.dataset.caution import caution
from vigc.platform.dataset.store import Store
from vigc.platform.exports import Options, Per, export, find_format
from vigc.platform.exports.validate import NOTES, ValidateOptions, validate
from vigc.platform.records import ConfigError, StoreError
from vigc.platform.storage import open_file

NUM_PROBLEMS = 5
CHECKED = ("llava", "sharegpt", "openai", "huggingface", "preference")


@dataclass(frozen=True)
class ExportResult:
    place: str
    num_examples: int
    left_out: dict[str, int]
    image_folder: str | None  # what the file's image paths are relative to
    caution: str | None  # what a reader of the data must know before anything else


def run_export(config: ExportConfig, on_progress: Callable[[int], None] | None = None) -> ExportResult:
    """Writes the place that is named, by default DATA/exports/FORMAT with the format's suffix.

    Raises:
        ConfigError: there is no such format, or no such option or check of it.
        StoreError: no data set, a file that cannot be written, or one that fails the check.
    """
    store, format = Store(config.data), config.format
    suffix = find_format(format).suffix
    if config.check and format not in CHECKED:
        raise ConfigError(f"--check does not read {format}; it reads {', '.join(CHECKED)}.")
    folder, name = open_file(config.out or f"{store}/exports/{format}{suffix}")
    target = f"{folder}/{name}"
    options = Options(config.multi_turn, config.embed, Per(config.per), config.shard_mb * 2**20)
    done = export(store, format, target, options, on_progress)
    image_folder = _image_folder(store)
    if config.check and done.num_examples:
        _check(target, image_folder)
    return ExportResult(target, done.num_examples, done.left_out, image_folder, caution(store.existing_passes()))


def _check(target: str, image_folder: str | None) -> None:
    found = validate(target, ValidateOptions(folder=image_folder)).found
    problems = [
        f"row {one.rows[0]}{f' and {one.num - 1} more' if one.num > 1 else ''}: {one.example}."
        for rule, one in found.items()
        if rule not in NOTES
    ]
    if problems:
        raise StoreError(f"{target} fails its check: {' '.join(islice(problems, NUM_PROBLEMS))}")


def _image_folder(store: Store) -> str | None:
    """Where the images are: what is left of a row's address without its image_id."""
    for row in store.rows(["image_id", "uri"]):
        if str(row["uri"]).endswith(f"/{row['image_id']}"):
            return str(row["uri"]).removesuffix(f"/{row['image_id']}")
    return None
