"""What travels through the streaming graph: one block of images, as one row of Ray Data.

The row's payload is an Arrow table in bytes, so Ray can neither split nor join blocks, and what a task is at work on,
loses and is given again is always one block. Any stage may be run again for a block at any time: the manifest says what
is in it, and a block that is committed already is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa

from vigc.platform.dataset.layout import Block

SCHEMA = pa.schema([("shard", pa.int32()), ("block", pa.int32()), ("payload", pa.large_binary())])


@dataclass(frozen=True, slots=True)
class BlockBatch:
    """A block and its images or rows."""

    block: Block
    payload: bytes | None  # `to_bytes` of a table; None: the block is not begun, because the run is being stopped

    @classmethod
    def of(cls, table: pa.Table) -> BlockBatch:
        """From the row that Ray Data hands over."""
        return cls(Block(table["shard"][0].as_py(), table["block"][0].as_py()), table["payload"][0].as_py())

    def as_table(self) -> pa.Table:
        return pa.table([[self.block.shard], [self.block.number], [self.payload]], schema=SCHEMA)


class StageError(Exception):
    """Carries a stage's exception to the driver unchanged: Ray adds advice to the text of the one it sees."""


@contextmanager
def errors_carried() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise StageError(error) from error


def to_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def from_bytes(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(pa.py_buffer(data)).read_all()
