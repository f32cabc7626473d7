"""One pass: its settings, its images, and the rows committed so far.

A pass counts once its `request.json` is there, which is written last. What its files are called stands in `layout.py`,
which of them count in `ledger.py`. Readers follow the ledger, so what a killed run left behind is never read.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from io import BytesIO
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vigc.platform.dataset.layout import (
    FORMAT,
    LAYOUT_FILE,
    REQUEST_FILE,
    ROWS_PER_SHARD,
    RUNS_FOLDER,
    VOCABULARY_FILE,
    Block,
    Layout,
    manifest_file,
    rows_per_block,
)
from vigc.platform.dataset.ledger import COMPRESSION, Ledger, read_ledger
from vigc.platform.records import ImageRecord, InputError, StoreError
from vigc.platform.schema import MANIFEST, ROW, from_dict
from vigc.platform.sources.base import Source, first_repeated
from vigc.platform.storage import Folder
from vigc.platform.vocabulary import Vocabulary

ROWS_PER_BATCH = 512


@dataclass(frozen=True)
class Pass:
    """One request, and access to the rows that answer it."""

    folder: Folder
    request: dict[str, Any]
    layout: Layout

    @property
    def number(self) -> str:
        return self.folder.uri.rpartition("/")[2]

    @property
    def num_requested(self) -> int:
        return self.layout.num_images

    @property
    def are_scenes(self) -> bool:
        """Whether all its images were known to be scenes of `vigc scenes` when it was begun."""
        return self.layout.are_scenes

    def vocabulary(self) -> Vocabulary | None:
        """The vocabulary that its rows' objects are named in; None where they are not named."""
        try:
            return Vocabulary.from_json(_read_json(self.folder, VOCABULARY_FILE))
        except FileNotFoundError:
            return None

    def ledger(self) -> Ledger:
        return read_ledger(self.folder, self.layout)

    def remaining(self) -> int:
        """How many of the requested images have no committed row."""
        return self.num_requested - self.ledger().num_rows

    def manifest(self, shard: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The records of a shard."""
        with readable(f"{self.folder}/{manifest_file(shard)}"):
            return pq.ParquetFile(BytesIO(self.folder.read(manifest_file(shard)))).read(columns=columns)

    def image_ids(self) -> Iterator[str]:
        """The ids that were asked for, in the order of the source."""
        for shard in range(self.layout.num_shards):
            yield from self.manifest(shard, ["image_id"])["image_id"].to_pylist()

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """This pass's committed rows with these columns of the schema ROW, file by file.

        A run that merges files meanwhile takes none away from the reader and gives none twice.
        """
        names = list(columns) if columns is not None else ROW.names
        read_blocks: set[Block] = set()
        read_shards: set[int] = set()
        while True:
            ledger = self.ledger()
            try:
                for one in ledger.finished:
                    if read_shards.isdisjoint(one.shards):
                        known = {block for block in read_blocks if block.shard in one.shards}
                        yield from self._merged(one.file, one.shards, names, known)
                        read_shards.update(one.shards)
                for block, committed in ledger.blocks.items():
                    if block not in read_blocks:
                        yield from self._file(committed.file, names)
                        read_blocks.add(block)
                return
            except FileNotFoundError as gone:
                if self.ledger() == ledger:
                    raise StoreError(
                        f"{self.folder}: a file of committed rows is gone ({gone}). `vigc verify` says which images "
                        "that takes away, and what to do."
                    ) from gone

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """The same as plain dicts in the shape of `records.Row`."""
        for batch in self.batches(columns):
            yield from batch.to_pylist()

    def add_run(self, provenance: Mapping[str, Any]) -> str:
        """Notes one run of this pass in `runs/NNN.json`: what may differ between runs without changing the rows."""
        name = f"{RUNS_FOLDER}/{len(self.folder.names(RUNS_FOLDER)) + 1:03}.json"
        write_json(self.folder, name, provenance)
        return name

    def _file(self, name: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
        with readable(f"{self.folder}/{name}"):
            yield from self.folder.open_parquet(name).iter_batches(ROWS_PER_BATCH, columns=columns)

    def _merged(
        self, name: str, shards: list[int], columns: list[str], without: set[Block]
    ) -> Iterator[pa.RecordBatch]:
        """A merged file, without the rows of some blocks."""
        if not without:
            yield from self._file(name, columns)
            return
        order = [Block(shard, number) for shard in shards for number in range(self.layout.num_blocks(shard))]
        ends = np.cumsum([0, *map(self.layout.num_rows_of, order)])
        wanted = [span for block, span in zip(order, pairwise(ends), strict=True) if block not in without]
        start = 0
        for batch in self._file(name, columns):
            for first, last in wanted:
                low, high = max(first - start, 0), min(last - start, batch.num_rows)
                if low < high:
                    yield batch.slice(low, high - low)
            start += batch.num_rows


def read_block(folder: Folder, layout: Layout, block: Block) -> pa.Table:
    """The manifest's records of a block, of the schema MANIFEST."""
    with readable(f"{folder}/{manifest_file(block.shard)}"):
        return _manifest_file(folder, layout.created, block.shard).read_row_group(block.number)


@lru_cache(maxsize=2)
def _manifest_file(folder: Folder, created: str, shard: int) -> pq.ParquetFile:
    """Read whole: a shard's records are a few megabytes, and its blocks are asked for one after the other."""
    return pq.ParquetFile(BytesIO(folder.read(manifest_file(shard))))


def write_pass(
    folder: Folder,
    request: Mapping[str, Any],
    source: Source,
    block_rows: int | None = None,
    vocabulary: Vocabulary | None = None,
) -> Pass:
    """Writes the manifest shard by shard and then, as the last thing, the request that makes it count.

    Args:
        block_rows: images in a block; None lets their number decide.
        vocabulary: to name objects in. It is kept with the pass, so that going on later names them alike.
    """
    num_images, ids = 0, []
    for shard, (table, is_only) in enumerate(_shards(source.tables())):
        if block_rows is None:
            block_rows = rows_per_block(table.num_rows if is_only else None)
        buffer = BytesIO()
        pq.write_table(table, buffer, row_group_size=block_rows, compression=COMPRESSION, write_statistics=False)
        folder.write(manifest_file(shard), buffer.getvalue())
        num_images += table.num_rows
        ids += table["image_id"].chunks
    if block_rows is None:
        raise InputError("The source gave no image, so there is nothing to do. Check the path and the limit.")
    if twice := first_repeated(pa.chunked_array(ids).combine_chunks()):
        first, second = twice
        image_id = pa.chunked_array(ids)[first].as_py()
        raise InputError(
            f"The image_id {image_id!r} comes twice: {source.place(first)} and {source.place(second)}. "
            "Rename one, or leave it out with --exclude."
        )
    layout = Layout(num_images, ROWS_PER_SHARD, block_rows, secrets.token_hex(8), source.are_scenes())
    write_json(folder, LAYOUT_FILE, asdict(layout))
    if vocabulary is not None:
        write_json(folder, VOCABULARY_FILE, vocabulary.as_json())
    write_json(folder, REQUEST_FILE, {"format": FORMAT, **request})
    return Pass(folder, dict(request), layout)


def _shards(tables: Iterable[pa.Table]) -> Iterator[tuple[pa.Table, bool]]:
    """Tables of a shard's rows each, and whether there is only this one."""
    waiting: list[pa.Table] = []
    num_waiting, is_first = 0, True
    for table in tables:
        waiting.append(table)
        num_waiting += table.num_rows
        while num_waiting > ROWS_PER_SHARD:
            joined = pa.concat_tables(waiting)
            yield joined.slice(0, ROWS_PER_SHARD).combine_chunks(), False
            waiting = [joined.slice(ROWS_PER_SHARD)]
            num_waiting -= ROWS_PER_SHARD
            is_first = False
    if num_waiting:
        yield pa.concat_tables(waiting).combine_chunks(), is_first


def read_pass(folder: Folder) -> Pass:
    """
    Raises:
        FileNotFoundError: no pass was completely created.
        StoreError: it is of another format, or damaged.
    """
    request = _read_json(folder, REQUEST_FILE)
    if (found := request.pop("format", None)) != FORMAT:
        made = "without a format number" if found is None else f"in format {found}"
        raise StoreError(
            f"{folder}: written {made}, and this version of vigc reads format {FORMAT} only. Make the data again in "
            "another folder, or use the version of vigc that wrote them."
        )
    return Pass(folder, request, Layout(**_read_json(folder, LAYOUT_FILE)))


def records_of(table: pa.Table) -> list[ImageRecord]:
    return [from_dict(ImageRecord, values) for values in table.select(MANIFEST.names).to_pylist()]


def _read_json(folder: Folder, name: str) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(folder.read(name))
    except ValueError as error:
        raise StoreError(f"{folder}/{name}: not JSON ({error}). Restore it or use another folder.") from error
    return values


def write_json(folder: Folder, name: str, content: Mapping[str, Any]) -> None:
    with folder.new_text(name) as file:
        json.dump(content, file, indent=2, ensure_ascii=False)
        file.write("\n")


@contextmanager
def readable(place: str) -> Iterator[None]:
    """Turns a Parquet file that is damaged or cannot be read into a StoreError, but not one that is not there."""
    try:
        yield
    except FileNotFoundError:
        raise
    except pa.ArrowInvalid as error:
        raise StoreError(f"{place} is damaged ({error}). `vigc verify` lists what is.") from error
    except OSError as error:
        raise StoreError(f"{place} cannot be read ({error}).") from error
