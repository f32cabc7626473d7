"""`vigc filter`: decide which conversations of a data set are kept, as often as one likes, without making any anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from vigc.jobs.dataset.config import FilterConfig
from vigc.platform.dataset.store import Store
from vigc.platform.dataset.verdicts import write_verdicts
from vigc.platform.images.decode import decode_batch
from vigc.platform.quality.decide import Evaluation, decide
from vigc.platform.quality.settings import FilterSettings
from vigc.platform.quality.similar_images import hashes_of
from vigc.platform.records import ConfigError, InputError
from vigc.platform.report.summary import write_summary
from vigc.platform.sources import open_source
from vigc.platform.storage.lock import only_writer
from vigc.platform.text_lines import read_lines

BY = "filter"
IMAGES_AT_ONCE = 64
HASHED_SIZE = 160  # pixels; hashes hardly depend on it

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Filtered:
    number: str  # of the verdicts
    changed: bool  # False: the same was decided before
    about: dict[str, Any]
    summary: dict[str, Any]


def run_filter(
    out: str,
    settings: FilterSettings,
    *,
    exclude_like: str | None = None,
    clear: bool = False,
    on_images: Report | None = None,
    on_rows: Report | None = None,
) -> Filtered:
    """Decides and sums up; either all of it counts afterwards or nothing does.

    Args:
        exclude_like: evaluation images, any source: no conversation about an image that is nearly one of them is kept.
        clear: reject nothing, whatever the settings.
        on_images, on_rows: called with how many are done and how many there are.
    Raises:
        VigcError: no data set, one that is being written, or a setting that cannot be used.
    """
    store = Store(out)
    store.existing_passes()
    evaluation = read_evaluation(exclude_like, on_images) if exclude_like is not None else None
    with only_writer(store.folder):
        if clear:
            file, changed = write_verdicts(store.folder, BY, [], {"cleared": True})
        else:
            embed = None
            if settings.similar_meaning is not None:
                from vigc.jobs.dataset.embeddings import load_embedder

                embed = load_embedder()
            made = decide(store, settings, evaluation=evaluation, embed=embed, on_progress=on_rows)
            file, changed = write_verdicts(store.folder, BY, made.verdicts(), made.about)
        return Filtered(file.number, changed, file.about, write_summary(store))


def with_words(config: FilterConfig) -> FilterConfig:
    """With the words of its file, which has one word or phrase a line. Raises ConfigError."""
    file = config.words
    if file is None:
        return config
    try:
        lines = read_lines(file)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{file}: the words cannot be read ({error}). One word or phrase a line, in UTF-8."
        ) from error
    found = tuple(dict.fromkeys(" ".join(line.split()) for line in lines if line.strip()))
    if not found:
        raise ConfigError(f"{file}: no word in it. One word or phrase a line.")
    return config.model_copy(update={"disallowed": (*config.disallowed, *found)})


def read_evaluation(location: str, on_progress: Report | None = None) -> Evaluation:
    """The hashes of the images at a place.

    Raises:
        InputError: none of them can be read.
    """
    source = open_source(location)
    total, ids, hashes, num_unreadable = source.num_images() or 0, [], [], 0
    for table in source.tables():
        for start in range(0, table.num_rows, IMAGES_AT_ONCE):
            decoded = decode_batch(table.slice(start, IMAGES_AT_ONCE), HASHED_SIZE)
            for image_id, phash in zip(decoded["image_id"].to_pylist(), decoded["phash"].to_pylist(), strict=True):
                if phash is None:
                    num_unreadable += 1
                else:
                    ids.append(image_id)
                    hashes.append(phash)
            if on_progress is not None:
                on_progress(len(ids) + num_unreadable, total)
    if not ids:
        raise InputError(f"{location}: none of its {num_unreadable} images can be read, so nothing is like them.")
    return Evaluation(source.describe(), ids, hashes_of(hashes), num_unreadable)


def as_json(found: Filtered) -> dict[str, Any]:
    return {name: value for name, value in asdict(found).items() if name != "summary"}
