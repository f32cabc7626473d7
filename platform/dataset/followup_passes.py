"""Further passes over a data set that is there: its failed images once more, or all its images for other kinds.

What such a pass is asked of comes from the data set itself, so the source need not be there any more. Its description
names the passes that it builds on; that is how an interrupted one is found again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vigc.platform.dataset.request import plain
from vigc.platform.dataset.store import Pass, Store
from vigc.platform.records import RowStatus
from vigc.platform.schema import MANIFEST
from vigc.platform.sources.base import RECORDS_PER_TABLE, Source

_RETRY, _MORE = "failed images of pass ", "images of pass "


class FailedImages(Source):
    """The images whose rows failed, in the order of the manifests, and the kinds that they lack for it.

    A pass asks the same kinds of all its images. Where some failed for other kinds than most, as they may after a
    further pass, the others are left for the next retry: asking them for more than they lack could replace answers that
    are there by a failure.
    """

    name = "retry"

    def __init__(self, store: Store) -> None:
        passes = store.existing_passes()
        self.unfinished = _unfinished_retry(passes)  # which is continued, not retried itself
        newest = None if self.unfinished is None else int(self.unfinished.number)
        self.passes = [one for one in passes if newest is None or int(one.number) < newest]
        self._store = store

    @property
    def kinds(self) -> list[str]:
        if self.unfinished is not None:
            return list(self.unfinished.request["kinds"])
        wanted = self._chosen[0]
        return [
            kind
            for kind in dict.fromkeys(kind for one in self.passes for kind in one.request["kinds"])
            if kind in wanted
        ]

    @property
    def num_left(self) -> int:
        """Images that failed for other kinds than these."""
        return 0 if self.unfinished is not None else sum(map(len, self._by_kinds.values())) - len(self._chosen[1])

    def describe(self) -> str:
        return _RETRY + _numbers(self.passes)

    def num_images(self) -> int | None:
        return None if self.unfinished is not None else len(self._chosen[1])

    def are_scenes(self) -> bool:
        return all(one.are_scenes for one in self.passes)

    def tables(self) -> Iterator[pa.Table]:
        yield from _distinct(self.passes, self._chosen[1])

    @property
    def _chosen(self) -> tuple[frozenset[str], set[str]]:
        """The kinds that most lack, and who does."""
        groups = sorted(self._by_kinds.items(), key=lambda group: (-len(group[1]), sorted(group[0])))
        return groups[0] if groups else (frozenset(), set())

    @cached_property
    def _by_kinds(self) -> dict[frozenset[str], set[str]]:
        asked = {one.number: one.request["kinds"] for one in self.passes}
        lacking: dict[str, set[str]] = {}
        for batch in self._store.batches(["image_id", "status", "pass"]):
            for row in batch.filter(pc.equal(batch["status"], RowStatus.FAILED.value)).to_pylist():
                lacking.setdefault(row["image_id"], set()).update(asked[row["pass"]])
        if lacking and len(self.passes) > 1:
            for row in self._store.rows(["image_id", "status", "conversations"]):
                if row["status"] != RowStatus.FAILED and row["image_id"] in lacking:
                    lacking[row["image_id"]] -= {spoken["kind"] for spoken in row["conversations"]}
        groups: dict[frozenset[str], set[str]] = {}
        for image_id, kinds in lacking.items():
            if kinds:
                groups.setdefault(frozenset(kinds), set()).add(image_id)
        return groups


class SameImages(Source):
    """All images of a data set."""

    name = "again"

    def __init__(self, store: Store) -> None:
        passes = store.existing_passes()
        self.passes = [one for one in passes if not one.request.get("source", "").startswith((_RETRY, _MORE))]

    def have(self, request: Mapping[str, Any]) -> bool:
        """Whether a pass over these images asked for all these kinds, in the same way."""

        def how(one: Mapping[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in one.items() if name not in ("source", "kinds")}

        wanted = plain(request)
        alike = [one for one in self.passes if how(one.request) == how(wanted)]
        return alike == self.passes and all(set(wanted["kinds"]) <= set(one.request["kinds"]) for one in alike)

    def describe(self) -> str:
        return _MORE + _numbers(self.passes)

    def are_scenes(self) -> bool:
        return all(one.are_scenes for one in self.passes)

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


def _unfinished_retry(passes: list[Pass]) -> Pass | None:
    retries = (one for one in reversed(passes) if one.request.get("source", "").startswith(_RETRY))
    return next((one for one in retries if one.remaining()), None)


def _numbers(passes: list[Pass]) -> str:
    return ", ".join(one.number for one in passes)
