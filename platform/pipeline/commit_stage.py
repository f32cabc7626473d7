"""The last stage of the streaming graph: a block's rows are measured and put on storage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from vigc.platform.dataset.layout import Block
from vigc.platform.dataset.ledger import CommittedFile, commit
from vigc.platform.dataset.tally import Tally
from vigc.platform.pipeline.block_batch import BlockBatch, errors_carried, from_bytes
from vigc.platform.pipeline.heartbeat import Heartbeat
from vigc.platform.storage import Folder

Measure = Callable[[pa.Table], pa.Table]  # rows of the schema ROW to the same rows with more known of them
# One row for each block, also for one that was not begun, which has no file.
_COMMITTED = pa.schema(
    [
        ("shard", pa.int32()),
        ("block", pa.int32()),
        ("file", pa.string()),
        ("sha256", pa.string()),
        ("num_bytes", pa.int64()),
        ("tally", pa.string()),  # as JSON
    ]
)


@dataclass(frozen=True)
class CommitStage:
    """Commits a block, in a task on any CPU worker."""

    folder: Folder  # the pass's
    heartbeat: Heartbeat
    measure: Measure | None

    def __call__(self, table: pa.Table) -> pa.Table:
        batch = BlockBatch.of(table)
        row: dict[str, Any] = {"shard": batch.block.shard, "block": batch.block.number}
        with errors_carried(), self.heartbeat.working():
            if batch.payload is not None:
                rows = from_bytes(batch.payload)
                made = commit(self.folder, batch.block, rows if self.measure is None else self.measure(rows))
                values = {"file": made.file, "sha256": made.sha256, "num_bytes": made.num_bytes}
                row |= values | {"tally": made.tally and made.tally.as_json()}
        self.heartbeat.end(batch.block)
        return pa.Table.from_pylist([row], schema=_COMMITTED)


def committed_files(table: pa.Table) -> Iterator[tuple[Block, CommittedFile]]:
    """What the stage has committed."""
    for row in table.to_pylist():
        if row["file"] is not None:
            block = Block(row["shard"], row["block"])
            tally = Tally.from_json(row["tally"])
            yield block, CommittedFile(row["file"], row["sha256"], row["num_bytes"], [block.shard], tally)
