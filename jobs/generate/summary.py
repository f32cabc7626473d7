"""`vigc summary`: what a data set holds, counted anew, also for parts of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv
from rich.console import Console
from rich.table import Table

from vigc.jobs.dataset.tables import hallucination_tables, table_of_kinds, verdict_tables
from vigc.jobs.generate.terminal import counts_of_kinds, counts_of_rows, say_caution
from vigc.platform.dataset.store import Store
from vigc.platform.dataset.verdicts import NEEDED
from vigc.platform.quality.hallucination import COLUMNS, Hallucination
from vigc.platform.records import ConfigError, InputError, Verdict
from vigc.platform.report.summary import summarise, vocabularies_of
from vigc.platform.sources.addresses import open_stream, readable

MAX_GROUPS = 100
NOT_LISTED = "(not listed)"

Grouping = Callable[[Sequence[str], Sequence[str]], list[str]]  # image_ids and passes of rows -> their groups


def run_summary(out: str, by: str | None = None) -> dict[str, Any]:
    """The figures of summary.json, and with `by` also `groups`: for each part its hallucination, and what is kept.

    Raises:
        StoreError: there is no data set at `out`.
        ConfigError: there are too many parts.
        InputError: the file that says what belongs where cannot be read.
    """
    store = Store(out)
    found = summarise(store)
    return found if by is None else found | {"groups": _groups(store, by)}


def say_summary(console: Console, found: dict[str, Any]) -> None:
    say_caution(console, found["caution"])
    console.print(counts_of_kinds(found))
    for part in (*hallucination_tables(found["hallucination"]), *verdict_tables(found["verdicts"])):
        console.print()
        console.print(part)
    if (hallucination := found["hallucination"]) and (pairs := hallucination["pairs_named_more_than_annotated"]):
        console.print()
        console.print(_table_of_pairs(pairs))
    for name, group in found.get("groups", {}).items():
        console.print()
        if group["hallucination"]:
            console.print(table_of_kinds(group["hallucination"], name))
        reasons = ", ".join(f"{reason} {num}" for reason, num in group["rejected_by_reason"].items())
        rejected = f"{group['num_rejected']} rejected{f' ({reasons})' if reasons else ''}"
        console.print(f"{name}: {group['num_kept']} kept, {rejected}", soft_wrap=True)
    console.print()
    counts_of_rows(console, found)


def _table_of_pairs(pairs: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("named together more than found together", "texts", "lift VIC", "lift VIG", "lift annotated"):
        table.add_column(heading, header_style="dim", justify="right" if table.columns else "left")
    for pair in pairs:
        lifts = (f"{pair[f'lift_{name}']:.2f}" for name in ("vic", "vig", "annotated"))
        table.add_row(" + ".join(pair["objects"]), str(pair["num_named"]), *lifts)
    return table


def _groups(store: Store, by: str) -> dict[str, Any]:
    grouping = _grouping(by)
    tally, verdicts = Hallucination(vocabularies_of(store.existing_passes())), store.verdicts()
    groups: dict[str, _Counts] = {}
    for committed in store.undecided_batches([*NEEDED, *COLUMNS[:1]]):
        of = grouping(committed["image_id"].to_pylist(), committed["pass"].to_pylist())
        decided = verdicts.applied(committed)
        for group, conversations in zip(of, decided["conversations"].to_pylist(), strict=True):
            groups.setdefault(group, _Counts()).add(conversations)
        if len(groups) > MAX_GROUPS:
            raise ConfigError(
                f"--by {by}: more than {MAX_GROUPS} parts. Give a file that says which domain each is of."
            )
        tally.add(committed, decided, of)
    hallucination = tally.metrics_of_groups()
    return {
        group: {
            "num_kept": counts.num_kept,
            "num_rejected": counts.num_rejected,
            "rejected_by_reason": dict(counts.reasons.most_common()),
            "hallucination": hallucination.get(group, {}),
        }
        for group, counts in sorted(groups.items())
    }


@dataclass
class _Counts:
    """Of the conversations of a part."""

    num_kept: int = 0
    num_rejected: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, conversations: Sequence[Mapping[str, Any]]) -> None:
        for one in conversations:
            if one["status"] == Verdict.KEPT:
                self.num_kept += 1
            else:
                self.num_rejected += 1
                self.reasons.update(one["reasons"])


def _grouping(by: str) -> Grouping:
    if by == "pass":
        return lambda _, passes: list(passes)
    if by == "folder":
        return lambda ids, _: [name.rpartition("/")[0].partition("/")[0] or "." for name in ids]
    domains = _domains(by)
    return lambda ids, _: [domains.get(name, NOT_LISTED) for name in ids]


def _domains(file: str) -> dict[str, str]:
    with readable(file), open_stream(file) as stream:
        try:
            content = pa.BufferReader(stream.read())
            found = pq.read_table(content) if file.endswith((".parquet", ".parq")) else csv.read_csv(content)
        except pa.ArrowInvalid as error:
            raise InputError(f"{file}: neither Parquet nor CSV ({error}). --by may also be folder or pass.") from error
    if missing := [name for name in ("image_id", "domain") if name not in found.column_names]:
        raise InputError(f"{file}: no column {missing[0]!r}, only {', '.join(found.column_names)}. Name it so.")
    texts = (found[name].cast(pa.string()).to_pylist() for name in ("image_id", "domain"))
    return dict(zip(*texts, strict=True))
