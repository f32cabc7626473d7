"""The first two stages of the streaming graph: which blocks are to be made, and their images as pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from ray.data import Datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

from vigc.platform.dataset.layout import Block, Layout
from vigc.platform.dataset.passes import read_block
from vigc.platform.pipeline.block_batch import SCHEMA, BlockBatch, errors_carried, to_bytes
from vigc.platform.pipeline.heartbeat import Heartbeat
from vigc.platform.storage import Folder


class RemainingBlocks(Datasource):
    """The blocks to be made, a task for each shard, in order."""

    def __init__(self, remaining: list[tuple[int, list[int]]]) -> None:
        self._remaining = remaining

    def get_name(self) -> str:
        return "RemainingBlocks"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *args: Any, **kwargs: Any) -> list[ReadTask]:
        unknown = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)
        return [ReadTask(_batches_of(shard, numbers), unknown, SCHEMA) for shard, numbers in self._remaining]


def _batches_of(shard: int, numbers: list[int]) -> Any:
    def read() -> Iterator[pa.Table]:
        for number in numbers:
            yield BlockBatch(Block(shard, number), b"").as_table()

    return read


@dataclass(frozen=True)
class DecodeStage:
    """Fetches a block's images and makes pixels of them, in a task on any CPU worker."""

    folder: Folder  # the pass's
    layout: Layout
    decode: Callable[[pa.Table, int, int], pa.Table]  # as Graph.decode
    image_size: int
    max_pixels: int
    heartbeat: Heartbeat

    def __call__(self, table: pa.Table) -> pa.Table:
        block = BlockBatch.of(table).block
        if self.heartbeat.is_stopping():
            return BlockBatch(block, None).as_table()
        with errors_carried(), self.heartbeat.working():
            records = read_block(self.folder, self.layout, block)
            return BlockBatch(block, to_bytes(self.decode(records, self.image_size, self.max_pixels))).as_table()
