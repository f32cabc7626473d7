"""Merges the blocks of finished shards into few large files.

First the merged file appears, then the marker that makes it count, then the blocks go. Whatever a kill leaves half done
does not count and is tidied away by the next run, which merges again.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vigc.platform.dataset.layout import Block, Layout, block_folder, merged_file, sha256_of
from vigc.platform.dataset.ledger import COMPRESSION, CommittedFile, Ledger, marker_of, tally_of
from vigc.platform.dataset.tally import Tally
from vigc.platform.records import StoreError
from vigc.platform.schema import ROW
from vigc.platform.storage import Folder

MIN_BYTES = 128 * 2**20
ROWS_PER_GROUP = 2_000
FIRST_GUESS = 0.5  # a merged file's size, as a share of its blocks'; after the first merge it is known
NUM_READERS = 8  # blocks fetched ahead; on an object store each takes some ten milliseconds


class Merger:
    """Gets every committed block, and merges in a thread of its own while the run goes on."""

    def __init__(self, folder: Folder, ledger: Ledger) -> None:
        self._folder, self._layout = folder, ledger.layout
        self._blocks: dict[int, dict[Block, CommittedFile]] = defaultdict(dict)  # of each shard
        self._complete: list[int] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="merge")
        self._pending: list[tuple[Future[CommittedFile], int]] = []
        self._share = FIRST_GUESS
        for block, committed in ledger.blocks.items():
            self._note(block, committed)

    def add(self, block: Block, committed: CommittedFile) -> None:
        """Raises what an earlier merge raised."""
        self._note(block, committed)
        self._merge_if(self._num_bytes() * self._share >= MIN_BYTES)
        while self._pending and self._pending[0][0].done():
            self._take_result()

    def finish(self) -> None:
        """Merges what is left of complete shards, and waits."""
        self._merge_if(bool(self._complete))
        while self._pending:
            self._take_result()

    def close(self) -> None:
        """Waits for the merge that is under way, and begins no other."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _note(self, block: Block, committed: CommittedFile) -> None:
        files = self._blocks[block.shard]
        files[block] = committed
        if len(files) == self._layout.num_blocks(block.shard):
            self._complete.append(block.shard)

    def _num_bytes(self) -> int:
        """The size of all blocks of complete shards."""
        return sum(one.num_bytes for shard in self._complete for one in self._blocks[shard].values())

    def _take_result(self) -> None:
        future, num_bytes = self._pending.pop(0)
        self._share = future.result().num_bytes / num_bytes

    def _merge_if(self, due: bool) -> None:
        if not due:
            return
        num_bytes = self._num_bytes()
        shards, self._complete = sorted(self._complete), []
        files = {block: one for shard in shards for block, one in self._blocks.pop(shard).items()}
        merging = self._thread.submit(merge, self._folder, self._layout, shards, files)
        self._pending.append((merging, num_bytes))


def merge(folder: Folder, layout: Layout, shards: list[int], files: dict[Block, CommittedFile]) -> CommittedFile:
    """One file for the blocks of these shards, in their order."""
    order = [Block(shard, number) for shard in shards for number in range(layout.num_blocks(shard))]
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="vigc-") as scratch:
        path = Path(scratch) / "merged.parquet"
        with pq.ParquetWriter(path, ROW, compression=COMPRESSION) as writer:
            waiting: list[pa.Table] = []
            for rows, counts in _read([files[block] for block in order], folder):
                tally += counts
                waiting.append(rows)
                if sum(table.num_rows for table in waiting) >= ROWS_PER_GROUP:
                    writer.write_table(pa.concat_tables(waiting))
                    waiting = []
            if waiting:
                writer.write_table(pa.concat_tables(waiting))
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        merged = CommittedFile(merged_file(sha256), sha256, path.stat().st_size, shards, tally)
        folder.upload(merged.file, path)
    folder.write(merged.marker, marker_of(merged))
    folder.delete(*(one.file for one in files.values()))
    for shard in shards:
        folder.delete_all(block_folder(shard))  # on a disk, an empty folder is left
    return merged


def _read(files: list[CommittedFile], folder: Folder) -> Iterator[tuple[pa.Table, Tally]]:
    """The rows of these blocks, in this order, some read ahead."""
    with ThreadPoolExecutor(NUM_READERS, thread_name_prefix="merge-read") as readers:
        for start in range(0, len(files), 4 * NUM_READERS):
            some = files[start : start + 4 * NUM_READERS]
            for one, data in zip(some, readers.map(folder.read, [one.file for one in some]), strict=True):
                if not sha256_of(data).startswith(one.sha256):
                    raise StoreError(
                        f"{folder}/{one.file} is not as it was committed: storage has damaged it. "
                        "Delete it and run the same command again, which makes its rows anew."
                    )
                file = pq.ParquetFile(BytesIO(data))
                yield file.read().cast(ROW), tally_of(file.schema_arrow)
