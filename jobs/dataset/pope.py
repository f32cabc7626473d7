"""`vigc pope`: probes for objects that are and are not there, from any annotated source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa

from vigc.jobs.dataset.config import PopeConfig
from vigc.platform.quality.pope import SPLITS, build_pope, write_probes
from vigc.platform.records import InputError
from vigc.platform.sources import open_source
from vigc.platform.storage import open_file
from vigc.platform.vocabulary import load_vocabulary, vocabulary_of

ALL = "all"


@dataclass(frozen=True)
class PopeFiles:
    files: dict[str, str]  # split -> file
    num_probes: int  # in each
    num_images: int
    num_eligible: int
    vocabulary: str


def run_pope(config: PopeConfig, on_progress: Callable[[int, int], None] | None = None) -> PopeFiles:
    """Writes a file for one split, or for each of them one with its name before the suffix.

    Raises:
        VigcError: a source without annotations, or without images with enough objects; a file that cannot be written.
    """
    opened = open_source(config.images, config.annotations, config.source)
    chosen = config.objects != "auto"
    vocabulary = load_vocabulary(config.objects) if chosen else vocabulary_of(opened.categories() or ())
    if vocabulary is None:
        raise InputError(
            f"{config.images}: its images have no annotated objects, so nothing is known to be absent. Name the "
            "annotations (--annotations), or a source that has them."
        )

    def tables() -> Iterator[pa.Table]:
        done, total = 0, opened.num_images() or 0
        for table in opened.tables():
            yield table
            done += len(table)
            if on_progress is not None:
                on_progress(done, max(done, total))

    made = build_pope(
        tables(),
        vocabulary,
        num_images=config.num_images,
        num_objects=config.num_objects,
        seed=config.seed,
        splits=SPLITS if config.split == ALL else (config.split,),
    )
    files = {}
    for name, probes in made.probes.items():
        folder, file = open_file(_named(config.out, name) if config.split == ALL else config.out)
        with folder.new_text(file) as text:
            write_probes(probes, text)
        files[name] = f"{folder}/{file}"
    return PopeFiles(files, len(next(iter(made.probes.values()))), made.num_images, made.num_eligible, vocabulary.name)


def _named(out: str, split: str) -> str:
    """pope.jsonl -> pope_random.jsonl."""
    path = PurePosixPath(out)
    return out.removesuffix(path.name) + f"{path.stem}_{split}{path.suffix or '.jsonl'}"
