"""A Parquet file, or all of a folder, as one numbered sequence of rows."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from itertools import accumulate

import pyarrow as pa
import pyarrow.parquet as pq

from vigc.platform.records import InputError
from vigc.platform.sources.addresses import absolute, is_folder, readable, split, suffix
from vigc.platform.sources.hub import HUB, HubFolder
from vigc.platform.storage import Folder, open_folder

SUFFIXES = (".parquet", ".parq")
UNFINISHED = "_unfinished.json"  # lies in a manifest folder that `vigc ingest` has not finished


class ParquetFiles:
    def __init__(self, place: str) -> None:
        """Reads the footers. Raises InputError when there is no Parquet file, or a damaged one."""
        self.place = absolute(place)
        self.folder, self.names = _found(self.place)
        self._files = _opened(self.folder)
        footers = [self._footer(name) for name in self.names]
        self._schemas = dict(zip(self.names, (footer.schema.to_arrow_schema() for footer in footers), strict=True))
        self._ends = list(accumulate(footer.num_rows for footer in footers))

    @property
    def num_rows(self) -> int:
        return int(self._ends[-1])

    def schema(self, name: str) -> pa.Schema:
        return self._schemas[name]

    def address(self, name: str) -> str:
        return f"{self.folder.rstrip('/')}/{name}"

    def place_of(self, index: int) -> str:
        number = bisect.bisect_right(self._ends, index)
        first = self._ends[number - 1] if number else 0
        return f"{self.address(self.names[number])}: row {index - first}"

    def batches(self, name: str, columns: Sequence[str], num_rows: int) -> Iterator[pa.RecordBatch]:
        """`columns` may name a part of one, as `image.path`, also where the column is a list of such structs."""
        with readable(self.address(name)), self._files.arrow.open_input_file(name) as file:
            parquet = pq.ParquetFile(file)
            yield from parquet.iter_batches(num_rows, columns=[leaf_of(parquet, column) for column in columns])

    def all_null(self, name: str, column: str) -> bool:
        """Whether a part of a column, as `image.bytes`, has no value in any row, by what the file says of itself."""
        with readable(self.address(name)), self._files.arrow.open_input_file(name) as file:
            parquet = pq.ParquetFile(file)
            leaf, found = leaf_of(parquet, column), parquet.metadata
            for number in range(found.num_row_groups):
                group = found.row_group(number)
                chunks = (group.column(index) for index in range(group.num_columns))
                chunk = next(chunk for chunk in chunks if chunk.path_in_schema == leaf)
                if chunk.statistics is None or chunk.statistics.null_count != chunk.num_values:
                    return False
            return True

    def _footer(self, name: str) -> pq.FileMetaData:
        with readable(self.address(name)), self._files.arrow.open_input_file(name) as file:
            return pq.read_metadata(file)


def leaf_of(parquet: pq.ParquetFile, column: str) -> str:
    """How the file calls a part of a column: `images.path` may be `images.list.element.path` there."""
    name, _, part = column.partition(".")
    paths = (parquet.schema.column(index).path for index in range(len(parquet.schema)))
    found = (path for path in paths if path.startswith(f"{name}.") and path.endswith(f".{part}"))
    return next(found, column) if part else column


def _opened(folder: str) -> Folder | HubFolder:
    return HubFolder(folder) if folder.startswith(HUB) else open_folder(folder)


def _found(place: str) -> tuple[str, list[str]]:
    if suffix(place) in SUFFIXES and (place.startswith(HUB) or not is_folder(place)):
        folder, name = split(place)
        return folder, [name]
    files = [entry.name for entry in _opened(place).files()]
    if UNFINISHED in files:
        raise InputError(f"{place}: `vigc ingest` has not finished this manifest. Run it again, to its end.")
    hidden = ("/.", "/_")
    names = [name for name in files if suffix(name) in SUFFIXES and not any(one in f"/{name}" for one in hidden)]
    if not names:
        raise InputError(
            f"{place}: no Parquet file in it. Name a .parquet, .csv or .jsonl file, or a folder of .parquet."
        )
    return place, names
