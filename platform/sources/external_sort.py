"""Rows about images that arrive in any order, kept on disk and given back image by image.

They go to a temporary file that has no name, so nothing is left of it however the process ends (TMPDIR says where).
`BatchFile` takes them as they come; `SortedByImage` holds them cut by groups of images, so that a group is read with
few reads.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vigc.platform.storage.files import explained

IMAGES_PER_GROUP = 20_000


class BatchFile:
    """Record batches, written once and then read back in order, one at a time."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.num_rows = 0
        self._file = tempfile.TemporaryFile(prefix="vigc-")  # noqa: SIM115  lives as long as this object
        self._writer = pa.ipc.new_file(self._file, schema)

    def add(self, batch: pa.RecordBatch) -> int:
        """Writes a batch and returns its number."""
        with explained(tempfile.gettempdir()):
            self._writer.write_batch(batch)
        self.num_rows += batch.num_rows
        return int(self._writer.stats.num_record_batches) - 1

    def reader(self) -> pa.RecordBatchFileReader:
        with explained(tempfile.gettempdir()):
            self._writer.close()
        return pa.ipc.open_file(self._file)

    def batches(self) -> Iterator[pa.RecordBatch]:
        reader = self.reader()
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


class SortedByImage:
    """Rows by the position of their image, which is their column `image`."""

    def __init__(self, schema: pa.Schema) -> None:
        self._written = BatchFile(schema)
        self._numbers: dict[int, list[int]] = defaultdict(list)  # group -> batches that hold some of its rows
        self._reader: pa.RecordBatchFileReader | None = None

    def add(self, batch: pa.RecordBatch, positions: NDArray[np.int64]) -> None:
        """`positions` takes the place of the column `image`; rows at -1 are left out."""
        order = np.argsort(positions, kind="stable")
        order = order[np.searchsorted(positions[order], 0) :]
        ordered = positions[order]
        batch = batch.set_column(0, "image", pa.array(positions)).take(pa.array(order))
        groups, starts = np.unique(ordered // IMAGES_PER_GROUP, return_index=True)
        for group, start, stop in zip(groups.tolist(), starts, [*starts[1:], len(order)], strict=True):
            self._numbers[group].append(self._written.add(batch.slice(start, stop - start)))

    def group(self, number: int, num_images: int) -> tuple[pa.Array, pa.Table]:
        """The rows of a group in the order they were added, and where each image's begin (num_images + 1 offsets)."""
        self._reader = self._reader or self._written.reader()
        batches = [self._reader.get_batch(one) for one in self._numbers.get(number, [])]
        table = pa.Table.from_batches(batches, schema=self._written.schema)
        positions = table["image"].to_numpy() - number * IMAGES_PER_GROUP
        table = table.take(pa.array(np.argsort(positions, kind="stable")))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(positions, minlength=num_images))])
        return pa.array(offsets, pa.int32()), table
