"""Which rows of a pass are committed, read off the names of its files.

A block is committed when its file is there: storage makes files appear whole or not at all, and the name holds the
block's place and the hash of the bytes. A shard is finished when a marker in `finished/` names the file that its blocks
were merged into; other files of it then no longer count. So a kill at any moment leaves either the old state or the new
one, and orphan files that `tidy` removes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vigc.platform.dataset.layout import (
    FINISHED_FOLDER,
    ROWS_FOLDER,
    Block,
    Layout,
    block_file,
    block_folder,
    finished_file,
    parse_block_file,
    sha256_of,
)
from vigc.platform.dataset.tally import Tally, count
from vigc.platform.records import StoreError
from vigc.platform.schema import ROW
from vigc.platform.storage import Folder

TALLY_KEY = b"vigc.tally"
COMPRESSION = "zstd"


@dataclass(frozen=True, slots=True)
class CommittedFile:
    """A file of rows that counts: one block's, or the one that all blocks of finished shards were merged into."""

    file: str
    sha256: str  # of its bytes; of a block's file the first digits, which its name has
    num_bytes: int
    shards: list[int]  # that its rows are of, in this order
    tally: Tally | None = None  # None where only the listing was read

    @property
    def marker(self) -> str:
        """The name of the marker that makes a merged file count."""
        return finished_file(self.sha256)


@dataclass(frozen=True)
class Ledger:
    """The files that count, and those that do not."""

    layout: Layout
    finished: list[CommittedFile] = field(default_factory=list)
    blocks: dict[Block, CommittedFile] = field(default_factory=dict)  # of shards that are not finished
    orphans: list[str] = field(default_factory=list)  # files that do not count

    @property
    def finished_shards(self) -> set[int]:
        return {shard for one in self.finished for shard in one.shards}

    @property
    def num_rows(self) -> int:
        return sum(map(self.layout.num_rows, self.finished_shards)) + sum(map(self.layout.num_rows_of, self.blocks))

    def remaining(self) -> Iterator[tuple[int, list[int]]]:
        """Shards that are not all committed, each with the numbers of the blocks that it lacks."""
        finished = self.finished_shards
        for shard in range(self.layout.num_shards):
            if shard in finished:
                continue
            blocks = range(self.layout.num_blocks(shard))
            if lacking := [number for number in blocks if Block(shard, number) not in self.blocks]:
                yield shard, lacking


def read_ledger(folder: Folder, layout: Layout) -> Ledger:
    """Reads one listing and the few markers, and opens no file of rows.

    Args:
        folder: the pass's.
    """
    finished = _markers(folder)
    done = {shard for one in finished for shard in one.shards}
    named = {one.file for one in finished}
    blocks: dict[Block, CommittedFile] = {}
    orphans: list[str] = []
    for entry in folder.files(ROWS_FOLDER):
        if entry.name in named:
            continue
        block, sha256 = parse_block_file(entry.name) or (None, "")
        # Of two files for one block, which only a process that outlived its run can leave, the first name counts.
        if block is None or block.shard in done or block in blocks or not _is_requested(block, layout):
            orphans.append(entry.name)
        else:
            blocks[block] = CommittedFile(entry.name, sha256, entry.num_bytes, [block.shard])
    return Ledger(layout, finished, blocks, orphans)


def commit(folder: Folder, block: Block, rows: pa.Table) -> CommittedFile:
    """Puts a block's rows on storage, unless they are there already: an earlier attempt may have come as far as this.

    Args:
        rows: of the schema ROW, in the manifest's order, all of the block's.
    """
    for name in folder.names(block_folder(block.shard)):
        file = f"{block_folder(block.shard)}/{name}"
        found = parse_block_file(file)
        if found is None or found[0] != block:
            continue
        data = folder.read(file)
        if sha256_of(data).startswith(found[1]):
            tally = tally_of(pq.read_schema(BytesIO(data)))
            return CommittedFile(file, found[1], len(data), [block.shard], tally)
        folder.delete(file)  # damaged since
    tally = count(rows)
    data = as_parquet(rows, tally)
    sha256 = sha256_of(data)
    file = block_file(block, sha256)
    folder.write(file, data)
    return CommittedFile(file, sha256, len(data), [block.shard], tally)


def tidy(folder: Folder, ledger: Ledger) -> None:
    """Deletes the orphan files, which a killed run left."""
    folder.delete(*ledger.orphans)
    folder.delete_unfinished()


def as_parquet(rows: pa.Table, tally: Tally) -> bytes:
    buffer = BytesIO()
    pq.write_table(rows.cast(with_tally(tally)), buffer, compression=COMPRESSION)
    return buffer.getvalue()


def with_tally(tally: Tally) -> pa.Schema:
    return ROW.with_metadata({TALLY_KEY: tally.as_json().encode()})


def tally_of(schema: pa.Schema) -> Tally:
    return Tally.from_json((schema.metadata or {})[TALLY_KEY])


def marker_of(merged: CommittedFile) -> bytes:
    return json.dumps(asdict(merged), indent=2).encode() + b"\n"


def _markers(folder: Folder) -> list[CommittedFile]:
    found = []
    for name in folder.names(FINISHED_FOLDER):
        path = f"{FINISHED_FOLDER}/{name}"
        try:
            values: dict[str, Any] = json.loads(folder.read(path))
            found.append(CommittedFile(**values | {"tally": Tally.from_dict(values["tally"])}))
        except (ValueError, TypeError, KeyError) as error:
            raise StoreError(
                f"{folder}/{path}: not a marker of finished shards ({error}). Restore the file, or delete it and run "
                "`vigc verify`, which then says which images have to be made again."
            ) from error
    return sorted(found, key=lambda one: one.shards)


def _is_requested(block: Block, layout: Layout) -> bool:
    return block.shard < layout.num_shards and block.number < layout.num_blocks(block.shard)
