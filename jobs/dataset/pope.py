"""`vigc pope`: probes for objects that are and are not there, from any annotated source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa

from vigc.platform.quality.pope import SPLITS, build_pope, write_probes
from vigc.platform.records import ConfigError, InputError
from vigc.platform.sources import open_source
from vigc.platform.storage import open_file
from vigc.platform.vocabulary import load_vocabulary, vocabulary_of

ALL = "all"


@dataclass(frozen=True)
class Probed:
    files: dict[str, str]  # split -> file
    num_probes: int  # in each
    num_images: int
    num_eligible: int
    vocabulary: str


def run_pope(
    location: str,
    out: str,
    *,
    annotations: str | None = None,
    source: str = "auto",
    objects: str = "auto",
    num_images: int = 500,
    num_objects: int = 3,
    split: str = ALL,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Probed:
    """Writes `out` for one split, or for each of them `out` with its name before the suffix.

    Raises:
        VigcError: a source without annotations, or without images with enough objects; a file that cannot be written.
    """
    if split not in (ALL, *SPLITS):
        raise ConfigError(f"--split {split}: there are {', '.join(SPLITS)}, and {ALL}.")
    opened = open_source(location, annotations, source)
    vocabulary = load_vocabulary(objects) if objects != "auto" else vocabulary_of(opened.categories() or ())
    if vocabulary is None:
        raise InputError(
            f"{location}: its images have no annotated objects, so nothing is known to be absent. Name the annotations "
            "(--annotations), or a source that has them."
        )

    def tables() -> Iterator[pa.Table]:
        done, total = 0, opened.num_images() or 0
        for table in opened.tables():
            yield table
            done += len(table)
            if on_progress is not None:
                on_progress(done, max(done, total))

    splits = SPLITS if split == ALL else (split,)
    made = build_pope(tables(), vocabulary, num_images=num_images, num_objects=num_objects, seed=seed, splits=splits)
    files = {}
    for name, probes in made.probes.items():
        folder, file = open_file(_named(out, name) if split == ALL else out)
        with folder.new_text(file) as text:
            write_probes(probes, text)
        files[name] = f"{folder}/{file}"
    return Probed(files, len(next(iter(made.probes.values()))), made.num_images, made.num_eligible, vocabulary.name)


def _named(out: str, split: str) -> str:
    """pope.jsonl -> pope_random.jsonl."""
    path = PurePosixPath(out)
    return out.removesuffix(path.name) + f"{path.stem}_{split}{path.suffix or '.jsonl'}"
