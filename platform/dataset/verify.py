"""Proof that a data set is whole: everything that was requested is there exactly once, and nothing is torn,
changed or left over.

Reads every file once, in the order of the manifest, a shard at a time, so that memory does not grow with the data.
What it finds it says; it mends nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vigc.platform.dataset.layout import SUMMARY_FILE, Block, manifest_file, sha256_of
from vigc.platform.dataset.ledger import CommittedFile, Ledger
from vigc.platform.dataset.passes import Pass
from vigc.platform.dataset.store import Store
from vigc.platform.dataset.verdicts import faults_of
from vigc.platform.records import RowStatus, StoreError

NUM_EXAMPLES = 3
MAX_LISTED = 10_000  # of `missing` and `doubled`; the counts are whole
COLUMNS = ["image_id", "status", "conversations.list.element.kind"]
AGAIN = "run the same `vigc generate` again"


@dataclass
class Verification:
    """`problems` are complete sentences; none means that the data set is whole."""

    num_requested: int = 0  # images, over all passes
    num_rows: int = 0  # committed, readable rows
    num_failed: int = 0  # of these, images that could not be used; no problem in themselves
    num_missing: int = 0  # (image_id, kind) that were asked for and are not there
    num_doubled: int = 0  # (image_id, kind) that are there more than once
    missing: list[tuple[str, str]] = field(default_factory=list)  # the first MAX_LISTED of them
    doubled: list[tuple[str, str]] = field(default_factory=list)
    passes: list[dict[str, Any]] = field(default_factory=list)  # number and counts of each pass
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(out: str | Path, on_progress: Callable[[int, int], None] | None = None) -> Verification:
    """Reads the whole data set.

    Args:
        on_progress: called with the number of images checked and of all images, after each shard.
    Raises:
        StoreError: `out` is no data set.
    """
    store = Store(out)
    passes = store.existing_passes()
    found = Verification(num_requested=sum(one.num_requested for one in passes))
    for one in passes:
        before = found.num_rows, found.num_failed
        _Check(one, found, on_progress).run()
        found.passes.append(
            {
                "pass": one.number,
                "kinds": list(one.request.get("kinds", ())),
                "num_requested": one.num_requested,
                "num_rows": found.num_rows - before[0],
                "num_failed": found.num_failed - before[1],
            }
        )
    if found.ok:
        found.problems += _check_summary(store, found)
    found.problems += faults_of(store.folder)
    return found


class _Check:
    """Of one pass."""

    def __init__(self, one: Pass, found: Verification, on_progress: Callable[[int, int], None] | None) -> None:
        self._pass, self._found, self._on_progress = one, found, on_progress
        self._kinds: list[str] = sorted(one.request.get("kinds", ()))  # none: as many conversations as questions
        self._missing: Counter[str] = Counter()
        self._unasked: list[str] = []
        self._doubled: list[str] = []
        self._incomplete: list[str] = []

    def run(self) -> None:
        one, ledger = self._pass, self._pass.ledger()
        self._problem(
            *(f"{one.folder}/{name} counts for nothing. To clear it away, {AGAIN}." for name in ledger.orphans)
        )
        if not self._check_manifest():
            return
        for finished in ledger.finished:
            self._check_finished(finished)
        done = ledger.finished_shards
        for shard in range(one.layout.num_shards):
            if shard not in done:
                self._check_shard(shard, ledger)
        num_missing = self._missing.total()
        for number, ids, fault in (
            (num_missing, list(self._missing), f"have no row; {AGAIN} to make them"),
            (len(self._unasked), self._unasked, "have a row but were never asked for"),
            (len(self._doubled), self._doubled, "have more than one row"),
            (len(self._incomplete), self._incomplete, f"do not have exactly the kinds {', '.join(self._kinds)}"),
        ):
            if number:
                examples = ", ".join(repr(image_id) for image_id in sorted(ids)[:NUM_EXAMPLES])
                self._problem(f"Pass {one.number}: {number} images {fault}. For example: {examples}.")

    def _problem(self, *sentences: str) -> None:
        self._found.problems += sentences

    def _check_manifest(self) -> bool:
        """Whether the manifest is readable and as long as the layout says."""
        one, layout = self._pass, self._pass.layout
        before = len(self._found.problems)
        for shard in range(layout.num_shards):
            name = manifest_file(shard)
            try:
                num_rows = one.folder.open_parquet(name).metadata.num_rows
            except (OSError, StoreError, pa.ArrowInvalid) as error:
                self._problem(f"{one.folder}/{name} cannot be read ({error}). Restore it: it says what was asked for.")
                continue
            if num_rows != layout.num_rows(shard):
                self._problem(f"{one.folder}/{name} has {num_rows} images instead of {layout.num_rows(shard)}.")
        return len(self._found.problems) == before

    def _check_finished(self, finished: CommittedFile) -> None:
        """A merged file against its hash and, shard by shard, against the manifest."""
        one = self._pass
        path = f"{one.folder}/{finished.file}"
        redo = f"To make its rows again, delete it and {one.folder}/{finished.marker}, then {AGAIN}."
        try:
            with one.folder.retry(lambda: one.folder.arrow.open_input_file(finished.file)) as file:
                if _sha256_of_stream(file) != finished.sha256:
                    self._problem(f"{path} is not as it was committed. {redo}")
                    self._all_missing(finished.shards)
                    return
                batches = pq.ParquetFile(file).iter_batches(10_000, columns=COLUMNS)
                for shard, rows in _in_shards(batches, [one.layout.num_rows(shard) for shard in finished.shards]):
                    self._compare(rows, one.manifest(finished.shards[shard], ["image_id"])["image_id"])
        except FileNotFoundError:
            self._problem(f"{path} is committed but gone. {redo}")
            self._all_missing(finished.shards)
        except (pa.ArrowInvalid, OSError) as error:
            self._problem(f"{path} is torn or damaged: {error}. {redo}")
            self._all_missing(finished.shards)

    def _check_shard(self, shard: int, ledger: Ledger) -> None:
        """The blocks of a shard that is not finished."""
        one, layout = self._pass, self._pass.layout
        ids = one.manifest(shard, ["image_id"])["image_id"]
        for number in range(layout.num_blocks(shard)):
            block = Block(shard, number)
            asked = ids.slice(number * layout.rows_per_block, layout.rows_per_block)
            committed = ledger.blocks.get(block)
            if committed is None:
                self._lacking(asked)
                continue
            redo = f"To make its rows again, delete it, then {AGAIN}."
            try:
                data = one.folder.read(committed.file)
                if not sha256_of(data).startswith(committed.sha256):
                    self._problem(f"{one.folder}/{committed.file} is not as it was committed. {redo}")
                    self._lacking(asked)
                    continue
                self._compare(pq.ParquetFile(BytesIO(data)).read(columns=COLUMNS), asked)
            except (pa.ArrowInvalid, OSError) as error:
                self._problem(f"{one.folder}/{committed.file} is torn or damaged: {error}. {redo}")
                self._lacking(asked)

    def _compare(self, rows: pa.Table, asked: pa.ChunkedArray) -> None:
        """Rows against the ids that they should answer, in this order; the usual case costs no Python for a row."""
        self._found.num_rows += rows.num_rows
        is_failed = pc.equal(rows["status"], RowStatus.FAILED.value)
        self._found.num_failed += pc.sum(is_failed).as_py() or 0
        if not rows["image_id"].equals(asked):
            there, wanted = Counter(rows["image_id"].to_pylist()), set(asked.to_pylist())
            self._lacking(pa.chunked_array([sorted(wanted - there.keys())], pa.string()))
            self._unasked += [image_id for image_id in there if image_id not in wanted]
            for image_id in (i for i, number in there.items() if number > 1):
                self._doubled.append(image_id)
                self._note("doubled", image_id)
        if self._kinds:
            self._check_kinds(rows.filter(pc.invert(is_failed)))
        if self._on_progress is not None:
            self._on_progress(self._found.num_rows, self._found.num_requested)

    def _check_kinds(self, rows: pa.Table) -> None:
        """Usually all rows have the same kinds in the same order, which is seen without looking at each."""
        if not rows.num_rows:
            return
        spoken = rows["conversations"].combine_chunks()
        if pc.all(pc.equal(pc.list_value_length(spoken), len(self._kinds))).as_py():
            kinds = pc.struct_field(pc.list_flatten(spoken), "kind").dictionary_encode()
            codes = kinds.indices.to_numpy().reshape(rows.num_rows, len(self._kinds))
            first = [kinds.dictionary[code].as_py() for code in codes[0].tolist()]
            if (codes == codes[0]).all() and sorted(first) == self._kinds:
                return
        for row in rows.to_pylist():
            if sorted(conversation["kind"] for conversation in row["conversations"]) != self._kinds:
                self._incomplete.append(row["image_id"])

    def _lacking(self, ids: pa.ChunkedArray) -> None:
        for image_id in ids.to_pylist():
            self._missing[image_id] += 1
            self._note("missing", image_id)

    def _all_missing(self, shards: list[int]) -> None:
        for shard in shards:
            self._lacking(self._pass.manifest(shard, ["image_id"])["image_id"])

    def _note(self, what: str, image_id: str) -> None:
        listed: list[tuple[str, str]] = getattr(self._found, what)
        for kind in self._kinds:
            setattr(self._found, f"num_{what}", getattr(self._found, f"num_{what}") + 1)
            if len(listed) < MAX_LISTED:
                listed.append((image_id, kind))


def _in_shards(batches: Iterator[pa.RecordBatch], lengths: list[int]) -> Iterator[tuple[int, pa.Table]]:
    """The rows cut at these lengths; what is left over, or lacking, belongs to the last."""
    waiting: list[pa.Table] = []
    shard = 0
    for batch in batches:
        waiting.append(pa.Table.from_batches([batch]))
        while shard < len(lengths) - 1 and sum(table.num_rows for table in waiting) >= lengths[shard]:
            joined = pa.concat_tables(waiting)
            yield shard, joined.slice(0, lengths[shard])
            waiting = [joined.slice(lengths[shard])]
            shard += 1
    while shard < len(lengths):
        yield shard, pa.concat_tables(waiting)
        waiting = [waiting[0].slice(0, 0)]
        shard += 1


def _sha256_of_stream(file: Any) -> str:
    whole = hashlib.sha256()
    while chunk := file.read(8 * 2**20):
        whole.update(chunk)
    file.seek(0)
    return whole.hexdigest()


def _check_summary(store: Store, found: Verification) -> list[str]:
    """The counts of summary.json, where there is one, against the rows."""
    try:
        said = json.loads(store.folder.read(SUMMARY_FILE))
    except FileNotFoundError:
        return []
    except ValueError as error:
        return [f"{store}/{SUMMARY_FILE} is not JSON ({error}). To write it anew, {AGAIN}."]
    if len(found.passes) == 1:
        counted = {"num_rows": found.num_rows, "num_failed": found.num_failed}
    else:
        statuses = Counter(row["status"] for row in store.rows(["status"]))
        counted = {"num_rows": statuses.total(), "num_failed": statuses[RowStatus.FAILED]}
    return [
        f"{store}/{SUMMARY_FILE} says {name} {said.get(name)}, but it is {number}. To write it anew, {AGAIN}."
        for name, number in counted.items()
        if said.get(name) != number
    ]
