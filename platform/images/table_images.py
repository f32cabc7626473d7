"""Single cells of tables that hold images: Arrow streams and files (as `datasets` saves them) and Parquet.

An image's cell is binary, a struct with a binary field `bytes`, or a list of one such struct. The tables opened last
stay open, each with the batch that was read last, so that reading row after row costs one pass and one batch of memory;
an Arrow file that is mapped is not even copied.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from vigc.platform.sources.parquet_files import leaf_of

MAX_OPEN = 4
MAX_BATCH_BYTES = 64 * 2**20  # of a Parquet file, decompressed; Arrow's batches are as large as they were written
BUFFER_BYTES = 8 * 2**20  # of a Parquet file that is read over the network

_open: OrderedDict[tuple[str, tuple[int, ...]], _Table] = OrderedDict()
_lock = threading.Lock()


def read_cell(
    address: str, version: tuple[int, ...], open_file: Callable[[], pa.NativeFile], row: int, column: str
) -> pa.Buffer:
    """The bytes of one cell, not copied.

    Args:
        version: differs when what lies at the address has changed.
    Raises:
        LookupError: no such row or column, or an empty cell. TypeError: a cell of another type.
        ArrowInvalid, OSError: the file.
    """
    key = (address, version)
    with _lock:
        table = _open.pop(key, None) or _Table(open_file())
        cell = table.cell(row, column)
        _open[key] = table  # after what may raise: a damaged table is opened anew
        while len(_open) > MAX_OPEN:
            _open.popitem(last=False)
        return cell


class _Table:
    """An open table and a place in it."""

    def __init__(self, file: pa.NativeFile) -> None:
        self._file = file
        self._magic = file.read(6)
        self._is_parquet = self._magic[:4] == b"PAR1"
        if self._is_parquet:
            import pyarrow.parquet as pq

            is_mapped = isinstance(file, pa.MemoryMappedFile)
            self._parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=0 if is_mapped else BUFFER_BYTES)
        self._column = ""
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._batch: pa.RecordBatch | None = None
        self._first, self._end = 0, 0  # the row its batch begins with; the row where its batches end

    def cell(self, row: int, column: str) -> pa.Buffer:
        if row < self._first or row >= self._end or column != self._column:
            self._column, self._batch = column, None
            self._first, self._end, self._batches = self._groups(row) if self._is_parquet else self._stream()
        while self._batch is None or row >= self._first + self._batch.num_rows:
            self._first += self._batch.num_rows if self._batch is not None else 0
            self._batch = next(self._batches, None)
            if self._batch is None:
                self._end = 0
                raise LookupError(f"there is no row {row}; it has {self._first}")
        return _bytes_of(self._batch, row - self._first, column)

    def _stream(self) -> tuple[int, int, Iterator[pa.RecordBatch]]:
        self._file.seek(0)
        if self._magic == b"ARROW1":
            reader = pa.ipc.open_file(self._file)
            return 0, 2**62, (reader.get_batch(number) for number in range(reader.num_record_batches))
        return 0, 2**62, iter(pa.ipc.open_stream(self._file))

    def _groups(self, row: int) -> tuple[int, int, Iterator[pa.RecordBatch]]:
        metadata, schema, first = self._parquet.metadata, self._parquet.schema_arrow, 0
        if self._column not in schema.names:
            raise _no_column(self._column, schema)
        kind = schema.field(self._column).type
        kind = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
        wanted = leaf_of(self._parquet, f"{self._column}.bytes") if pa.types.is_struct(kind) else self._column
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            if row < first + group.num_rows:
                chunks = (group.column(index) for index in range(group.num_columns))
                size = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == wanted)
                fitting = max(1, min(group.num_rows, group.num_rows * MAX_BATCH_BYTES // max(1, size)))
                batches = self._parquet.iter_batches(fitting, row_groups=[number], columns=[wanted], use_threads=False)
                return first, first + group.num_rows, batches
            first += group.num_rows
        raise LookupError(f"there is no row {row}; it has {first}")


def _bytes_of(batch: pa.RecordBatch, row: int, column: str) -> pa.Buffer:
    if column not in batch.schema.names:
        raise _no_column(column, batch.schema)
    cell: Any = batch.column(column)[row]
    if isinstance(cell, pa.ListScalar | pa.LargeListScalar) and cell.is_valid:
        if len(cell) != 1:
            raise LookupError(f"the cell in column {column!r} holds {len(cell)} images; a row is made of one")
        cell = cell[0]
    if pa.types.is_struct(cell.type) and cell.is_valid:
        if "bytes" not in (field.name for field in cell.type):
            raise TypeError(f"column {column!r} is a struct without a field `bytes`")
        cell = cell["bytes"]
    if not cell.is_valid:
        raise LookupError(f"the cell in column {column!r} is null")
    if not isinstance(cell, pa.BinaryScalar) or isinstance(cell, pa.StringScalar):
        raise TypeError(f"column {column!r} is of type {cell.type}, not binary or a struct with `bytes`")
    return cell.as_buffer()


def _no_column(column: str, schema: pa.Schema) -> LookupError:
    return LookupError(f"there is no column {column!r}; it has {', '.join(schema.names)}")
