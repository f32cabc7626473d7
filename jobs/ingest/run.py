"""`vigc ingest`: any source as a manifest of Parquet files, read once, in bounded memory.

`manifest.json` is written last and makes the folder a finished manifest; until then `_unfinished.json` says that it is
none, so what a killed run leaves is neither read by mistake nor in the way of the next run.
"""

from __future__ import annotations

import json
import re
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from vigc.jobs.ingest.config import IngestConfig
from vigc.jobs.settings.shared import ChoosesImages
from vigc.platform.records import ConfigError, InputError, StoreError
from vigc.platform.schema import MANIFEST
from vigc.platform.sources import UNFINISHED, Selection, Source, open_source
from vigc.platform.sources.addresses import absolute
from vigc.platform.sources.base import first_repeated
from vigc.platform.sources.manifest import SCENES_MARK
from vigc.platform.storage import Folder, open_folder
from vigc.platform.storage.files import explained

FINISHED = "manifest.json"
IMAGES_PER_FILE = 100_000
IMAGES_PER_ROW_GROUP = 25_000
PLAIN_INTERVAL_S = 10.0

_PART = re.compile(r"\d{5}\.parquet")


@dataclass(frozen=True, slots=True)
class Ingested:
    manifest: str
    source: str
    num_images: int
    num_files: int
    num_excluded: int | None  # None: no list of ids was given
    num_unmatched: int | None  # ids of that list that no image answers to
    written: bool  # False: it was there already


def run_ingest(
    config: IngestConfig,
    *,
    on_open: Callable[[str], None] | None = None,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> Ingested:
    """Writes the manifest, or finds that it is there. What is no manifest is never replaced.

    Args:
        on_open: called with the source's description before the first image.
        on_progress: called with the images so far and, where known, of all, file by file of the source.
    Raises:
        VigcError: the source or the place cannot be used; then nothing is left at the place.
    """
    location = absolute(config.location)
    if f"{location}/".startswith(f"{absolute(config.out)}/"):
        raise ConfigError(f"--out {config.out}: that is where the images are read from. Name another folder.")
    folder = open_folder(config.out)
    wanted = config.as_file() | {"location": location, "annotations": [absolute(one) for one in config.annotations]}
    del wanted["out"]
    if (done := _finished(folder, wanted, config.overwrite)) is not None:
        return done
    opened = open_chosen(config.location, config)
    if on_open is not None:
        on_open(opened.describe())
    total = opened.num_images()
    folder.write(UNFINISHED, _json(wanted))  # before anything goes, so that half a manifest is never taken for a whole
    _clear(folder)
    try:
        num_images, num_files = _write(opened, folder, lambda num: on_progress(num, total) if on_progress else None)
    except BaseException:
        _clear(folder)
        folder.delete(UNFINISHED)
        if not folder.names():
            folder.delete_all()
        raise
    made = Ingested(
        manifest=folder.uri,
        source=opened.describe(),
        num_images=num_images,
        num_files=num_files,
        num_excluded=opened.num_excluded if isinstance(opened, Selection) and config.exclude else None,
        num_unmatched=opened.num_unmatched if isinstance(opened, Selection) and config.exclude else None,
        written=True,
    )
    folder.write(FINISHED, _json({"request": wanted, "made": asdict(made)}))
    folder.delete(UNFINISHED)
    return made


def open_chosen(location: str, config: ChoosesImages) -> Source:
    """The images at a place that are wanted."""
    source = open_source(location, config.annotations, config.source)
    wanted = {name: getattr(config, name) for name in ("exclude", "limit", "sample", "shard")}
    return Selection(source, seed=config.seed, **wanted) if any(wanted.values()) else source


def _finished(folder: Folder, wanted: dict[str, Any], overwrite: bool) -> Ingested | None:
    """The manifest that is there, if it is the wanted one. Raises StoreError when something else is in the way."""
    names = folder.names()
    if not names or UNFINISHED in names:
        return None
    if FINISHED not in names:
        raise StoreError(
            f"{folder} is not empty and holds no manifest of `vigc ingest`. Name an empty or a new folder."
        )
    if overwrite:
        return None
    try:
        content = json.loads(folder.read_text(FINISHED))
        found, made = content["request"], Ingested(**content["made"] | {"written": False})
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{folder}/{FINISHED}: damaged ({error}). Add --overwrite to make the manifest anew."
        ) from error
    if different := [
        f"{name}: {found.get(name)} -> {value}" for name, value in wanted.items() if found.get(name) != value
    ]:
        raise StoreError(
            f"{folder} holds another manifest: {', '.join(different)}. Name another folder, or add --overwrite."
        )
    return made


def _clear(folder: Folder) -> None:
    folder.delete(*(name for name in folder.names() if name == FINISHED or _PART.fullmatch(name)))


def _write(source: Source, folder: Folder, report: Callable[[int], None]) -> tuple[int, int]:
    """The images and the files written."""
    ids: list[pa.Array] = []
    num_images = num_files = 0
    report(0)
    for tables in _files_of(source, report):
        table = pa.concat_tables(tables)
        if source.are_scenes():
            table = table.replace_schema_metadata(SCENES_MARK)
        ids += table["image_id"].chunks
        with tempfile.TemporaryDirectory(prefix="vigc-") as scratch, explained(scratch):
            path = Path(scratch) / "part.parquet"
            pq.write_table(table, path, row_group_size=IMAGES_PER_ROW_GROUP)
            folder.upload(f"{num_files:05}.parquet", path)
        num_files += 1
        num_images += len(table)
    if not num_images:
        raise InputError(f"{source.describe()}: there is no image any more. Check the place.")
    _require_different(pa.concat_arrays(ids), source)
    return num_images, num_files


def _files_of(source: Source, report: Callable[[int], None]) -> Iterator[list[pa.Table]]:
    """The source's tables, cut to the size of the manifest's files."""
    waiting: list[pa.Table] = []
    num = done = 0
    for found in source.tables():
        table = found.cast(MANIFEST)
        done += len(table)
        while num + len(table) >= IMAGES_PER_FILE:
            rest = IMAGES_PER_FILE - num
            yield [*waiting, table.slice(0, rest)]
            waiting, num, table = [], 0, table.slice(rest)
        if len(table):
            waiting.append(table)
            num += len(table)
        report(done)
    if waiting:
        yield waiting


def _require_different(ids: pa.Array, source: Source) -> None:
    if (twice := first_repeated(ids)) is not None:
        first, second = twice
        raise InputError(
            f"The image_id {ids[second].as_py()!r} comes twice: {source.place(first)}, and {source.place(second)}. "
            "Rename one."
        )


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


class Say:
    """What the terminal shows meanwhile: a bar on a terminal, elsewhere a plain line now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = self._said = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.fields[rest]}"))
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("reading annotations and listing", total=None, rest="")

    @contextmanager
    def shown(self) -> Iterator[None]:
        with self._bar:
            yield

    def opened(self, source: str) -> None:
        self._console.print(f"images    {source}", soft_wrap=True, markup=False)
        self._started = time.monotonic()

    def report(self, done: int, total: int | None) -> None:
        now = time.monotonic()
        text = _figures(done, total, now - self._started)
        self._bar.update(self._task, description="images", completed=done, total=total, rest=text)
        if not self._console.is_terminal and now - self._said >= PLAIN_INTERVAL_S:
            self._said = now
            self._console.print(text, soft_wrap=True)

    def done(self, made: Ingested) -> None:
        folder = shlex.quote(made.manifest)
        if not made.written:
            self._console.print(
                f"{made.manifest} already holds this manifest of {made.num_images} images.", soft_wrap=True
            )
        else:
            seconds = time.monotonic() - self._started
            text = f"{made.num_images} images in {made.manifest}, {_rate(made.num_images, seconds)}"
            self._console.print(text, soft_wrap=True, markup=False)
        if made.num_excluded is not None:
            text = f"{made.num_excluded} images excluded; {made.num_unmatched} ids of the list fit no image"
            self._console.print(text, soft_wrap=True)
        self._console.print(f"try  vigc generate {folder} --out data", soft_wrap=True, markup=False)


def _figures(done: int, total: int | None, seconds: float) -> str:
    of = f" of {total}" if total is not None else ""
    left = f", {seconds * (total - done) / done:.0f} s left" if total is not None and done else ""
    return f"{done}{of} images, {_rate(done, seconds)}{left}"


def _rate(done: int, seconds: float) -> str:
    return f"{done / max(seconds, 1e-3):.0f} images/s"
