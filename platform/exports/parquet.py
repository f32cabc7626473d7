"""One Parquet file, a row for each conversation, with all that was measured on it; images stay where they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vigc.platform.exports.examples import Example
from vigc.platform.schema import ROW

GROUP_ROWS = 10_000

_OF_IMAGE = ("image_id", "uri", "width", "height")
_CONVERSATION = ROW.field("conversations").type.value_type
_OF_CONVERSATION = [field for field in _CONVERSATION if field.name not in ("status", "reasons")]
SCHEMA = pa.schema([*(ROW.field(name) for name in _OF_IMAGE), *_OF_CONVERSATION])


def write(examples: Iterable[Example], path: Path) -> int:
    """Returns how many rows were written."""
    num = 0
    rows = _rows(examples)
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        while some := list(islice(rows, GROUP_ROWS)):
            writer.write_table(pa.Table.from_pylist(some, schema=SCHEMA))
            num += len(some)
    return num


def _rows(examples: Iterable[Example]) -> Iterator[dict[str, Any]]:
    for example in examples:
        of_image = {name: example.row[name] for name in _OF_IMAGE}
        for one in example.conversations:
            yield of_image | {field.name: one[field.name] for field in _OF_CONVERSATION}
