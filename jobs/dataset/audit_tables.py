"""The agreement of the automatic checks with a human, as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vigc.platform.report.audit import Agreement, Audit, Checks

HEADINGS = ("", "sentences", "precision", "recall", "kappa", "wrong by both", "check", "human")


def audit_tables(found: Audit) -> Iterator[RenderableType]:
    """Of all marks, and of those in the random sample where they are not the same."""
    yield from _tables(found.every, "all marks", found.grounding_below)
    if 0 < found.random.num_marks < found.every.num_marks:
        yield Text()
        yield from _tables(found.random, "random sample", found.grounding_below)
    if found.random.num_marks < found.every.num_marks:
        yield Text("Only the random sample speaks for the whole data: the checks chose the other rows.", "dim")
    if found.num_stale:
        yield Text(f"{found.num_stale} marks are of sentences that the data set does not hold any more.", "dim")


def _tables(checks: Checks, title: str, grounding_below: float) -> Iterator[RenderableType]:
    yield Text(f"{title}: {checks.num_marks} sentences, {checks.num_wrong} wrong by the human", "bold")
    table = Table(box=None, padding=(0, 2, 0, 0))
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, header_style="dim", justify="right" if number else "left")
    table.add_row("absent objects", *_figures(checks.objects))
    if checks.grounding.num:
        table.add_row(f"grounding < {grounding_below:g}", *_figures(checks.grounding))
    yield table
    if checks.grounding_auroc is not None:
        yield Text(f"grounding alone tells wrong from right with AUROC {checks.grounding_auroc:.2f}", "dim")


def _figures(found: Agreement) -> list[str]:
    rates = (found.precision, found.recall, found.kappa)
    counts = (found.both_wrong, found.only_check, found.only_human)
    return [str(found.num), *("-" if rate is None else f"{rate:.2f}" for rate in rates), *map(str, counts)]
