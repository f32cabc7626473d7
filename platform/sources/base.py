"""What a source of images is: a lazy stream of records, the same each time it is asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc

from vigc.platform.records import ImageRecord
from vigc.platform.schema import MANIFEST, from_dict, to_dict

RECORDS_PER_TABLE = 5_000
NUM_LOOKED_AT = 20_000  # records, where their annotations are not at hand otherwise


class Source(ABC):
    """See the module. Making one may raise InputError; so may reading it, with the place of what is wrong."""

    name: str  # what --source calls it

    @abstractmethod
    def describe(self) -> str:
        """One line for people and for the pass's request: the kind of source and where it is."""

    @abstractmethod
    def tables(self) -> Iterator[pa.Table]:
        """The records in the source's order, some thousand at a time, with the schema MANIFEST."""

    def place(self, index: int) -> str:
        """Where the record with this number (from 0) stands, for errors."""
        return f"image {index + 1}"

    def num_images(self) -> int | None:
        """How many there are now, where that can be told without reading all of it."""
        return None

    def categories(self) -> list[str] | None:
        """The categories that its annotations use; None where it has no annotations."""
        return None

    def are_scenes(self) -> bool:
        """Whether all its images are known to be scenes of `vigc scenes`."""
        return False

    def __iter__(self) -> Iterator[ImageRecord]:
        for table in self.tables():
            yield from (from_dict(ImageRecord, values) for values in table.to_pylist())


def in_tables(records: Iterable[ImageRecord]) -> Iterator[pa.Table]:
    """Records as tables with the schema MANIFEST."""
    remaining = iter(records)
    while some := [to_dict(record) for record in islice(remaining, RECORDS_PER_TABLE)]:
        yield pa.Table.from_pylist(some, schema=MANIFEST)


def categories_of(tables: Iterable[pa.Table]) -> list[str] | None:
    """Of the first NUM_LOOKED_AT records of tables with a column `objects`."""
    found: dict[str, None] = {}
    is_annotated, num_looked_at = False, 0
    for table in tables:
        objects = table["objects"].combine_chunks()
        is_annotated |= objects.null_count < len(objects)
        found |= dict.fromkeys(pc.unique(pc.struct_field(objects.flatten(), "category")).to_pylist())
        num_looked_at += len(table)
        if num_looked_at >= NUM_LOOKED_AT:
            break
    return sorted(found) if is_annotated else None


class Records(Source):
    """Records that are at hand already."""

    name = "records"

    def __init__(self, records: Iterable[ImageRecord], description: str = "records") -> None:
        self._records = list(records)
        self._description = description

    def describe(self) -> str:
        return self._description

    def tables(self) -> Iterator[pa.Table]:
        return in_tables(self._records)

    def categories(self) -> list[str] | None:
        return categories_of(self.tables())


def first_repeated(values: pa.Array) -> tuple[int, int] | None:
    """The first two places of the value that is the first to come again.

    By sorting, which takes a small part of the memory of Arrow's hash tables.
    """
    order = pc.sort_indices(values)
    ordered = values.take(order)
    again = order.to_numpy()[1:][pc.equal(ordered[1:], ordered[:-1]).to_numpy(zero_copy_only=False)]
    if not len(again):
        return None
    second = int(again.min())
    return int(pc.index(values, values[second]).as_py()), second
