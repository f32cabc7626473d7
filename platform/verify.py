"""Proof that a dataset directory is whole: everything that was asked is there exactly once, and nothing is torn or
left over.

Reads every file once. What it finds it says; it mends nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vigc.platform.passes import LEDGER_FOLDER, PENDING, ROWS_FOLDER, Pass, stem_of
from vigc.platform.records import RowStatus
from vigc.platform.schema import ROW
from vigc.platform.store import Store, kinds_of

NUM_EXAMPLES = 3


@dataclass(frozen=True)
class Verification:
    """`problems` are complete sentences; none means that the data set is whole."""

    num_requested: int  # images, over all passes
    num_rows: int  # committed, readable rows
    num_failed: int  # of these, images that could not be used; no problem in themselves
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(out: str | Path) -> Verification:
    """Raises StoreError when `out` is no dataset directory."""
    parts = [_verify_pass(one) for one in Store(out).existing_passes()]
    return Verification(
        sum(part.num_requested for part in parts),
        sum(part.num_rows for part in parts),
        sum(part.num_failed for part in parts),
        [problem for part in parts for problem in part.problems],
    )


def _verify_pass(one: Pass) -> Verification:
    problems = _check_files(one)
    kinds = Counter(one.request["kinds"])
    found: Counter[str] = Counter()
    incomplete: list[str] = []
    num_failed = 0
    for name in one.committed_files():
        try:
            rows = pq.read_table(f"{ROWS_FOLDER}/{name}", filesystem=one.files, schema=ROW)
        except (pa.ArrowInvalid, OSError) as error:
            problems.append(f"{one.rows_dir / name} is torn or damaged: {error}. {_redo(one, name)}")
            continue
        for row in rows.select(["image_id", "status", "conversations"]).to_pylist():
            found[row["image_id"]] += 1
            num_failed += row["status"] == RowStatus.FAILED
            if Counter(kinds_of(row, one)) != kinds:
                incomplete.append(row["image_id"])
    requested = set(one.image_ids())
    for images, fault in (
        (requested - found.keys(), "have no row; run the same `vigc generate` again to make them"),
        (found.keys() - requested, "have a row but were never asked for"),
        ({image_id for image_id, count in found.items() if count > 1}, "have more than one row"),
        (set(incomplete), f"do not have exactly the kinds {', '.join(sorted(kinds))}"),
    ):
        if images:
            examples = ", ".join(repr(image_id) for image_id in sorted(images)[:NUM_EXAMPLES])
            problems.append(f"Pass {one.number}: {len(images)} images {fault}. For example: {examples}.")
    return Verification(len(requested), found.total(), num_failed, problems)


def _check_files(one: Pass) -> list[str]:
    """The ledger against the row files: each must name the other."""
    ledger, files = one.ledger(), one.listed(ROWS_FOLDER)
    stems = {stem_of(name) for name in files}
    again = "The next run of the same `vigc generate` clears it away."
    orphans = [one.rows_dir / name for name in files if stem_of(name) not in ledger]
    pending = [one.checkpoint_dir / name for name in one.listed(LEDGER_FOLDER) if name.endswith(PENDING)]
    gone = [f"{stem}-0.parquet" for stem in sorted(ledger - stems)]
    return [
        *(f"{path} is not committed. {again}" for path in (*orphans, *pending)),
        *(f"{one.rows_dir / name} is committed but gone. {_redo(one, name)}" for name in gone),
    ]


def _redo(one: Pass, name: str) -> str:
    entry = one.checkpoint_dir / f"{stem_of(name)}.parquet"
    return f"To make its rows again, delete it and {entry}, then run the same `vigc generate`."
