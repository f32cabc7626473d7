"""Further passes over a data set that is there: its failed images once more, or all its images for other kinds.

What such a pass is asked of comes from the data set itself, so the source need not be there any more. Its description
names the passes that it builds on; that is how an interrupted one is found again.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from vigc.platform.records import InputError, RowStatus
from vigc.platform.schema import MANIFEST
from vigc.platform.sources.base import RECORDS_PER_TABLE, Source
from vigc.platform.store import Pass, Store

_RETRY, _MORE = "failed images of pass ", "images of pass "


class FailedImages(Source):
    """The images whose rows failed, in the order of the manifests."""

    name = "retry"

    def __init__(self, store: Store) -> None:
        """Leaves out a retry that is not finished: it is continued, not retried itself."""
        self.unfinished = _unfinished_retry(store)
        self.passes = [one for one in store.existing_passes() if self.unfinished is None or one != self.unfinished]
        self._store = store

    @property
    def kinds(self) -> list[str]:
        """All that were asked for of any image."""
        return list(dict.fromkeys(kind for one in self.passes for kind in one.request["kinds"]))

    def describe(self) -> str:
        return _RETRY + _numbers(self.passes)

    def tables(self) -> Iterator[pa.Table]:
        columns = ["image_id", "status", "conversations"]
        failed = {row["image_id"] for row in self._store.rows(columns) if row["status"] == RowStatus.FAILED}
        if not failed:
            raise InputError(f"No image of {self._store} failed, so there is nothing to retry.")
        yield from _distinct(self.passes, failed)


class SameImages(Source):
    """All images of a data set."""

    name = "again"

    def __init__(self, store: Store) -> None:
        passes = store.existing_passes()
        self.passes = [one for one in passes if not one.request.get("source", "").startswith((_RETRY, _MORE))]

    def describe(self) -> str:
        return _MORE + _numbers(self.passes)

    def tables(self) -> Iterator[pa.Table]:
        if len(self.passes) > 1:
            yield from _distinct(self.passes, None)
            return
        for one in self.passes:
            yield from (one.manifest(shard) for shard in range(one.layout.num_shards))


def _distinct(passes: list[Pass], wanted: set[str] | None) -> Iterator[pa.Table]:
    """Records of the manifests, each image once."""
    seen: set[str] = set()
    for one in passes:
        for shard in range(one.layout.num_shards):
            table = one.manifest(shard)
            is_new = []
            for image_id in table["image_id"].to_pylist():
                is_new.append(image_id not in seen and (wanted is None or image_id in wanted))
                if is_new[-1]:
                    seen.add(image_id)
            found = table.filter(pa.array(is_new)).cast(MANIFEST)
            for start in range(0, found.num_rows, RECORDS_PER_TABLE):
                yield found.slice(start, RECORDS_PER_TABLE)


def _unfinished_retry(store: Store) -> Pass | None:
    newest = store.existing_passes()[-1]
    is_retry = newest.request.get("source", "").startswith(_RETRY)
    return newest if is_retry and newest.remaining() else None


def _numbers(passes: list[Pass]) -> str:
    return ", ".join(one.number for one in passes)
