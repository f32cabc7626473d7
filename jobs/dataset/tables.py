"""What a data set says of itself, as tables for the terminal: hallucination before and after, what filters decided, and
how far the automatic checks agree with a human. No rate stands without recall and length beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vigc.platform.report.audit import Agreement, Audit, Checks

ANSWERS = {"vig": "VIG", "vic": "VIC", "kept": "kept"}  # kept: VIC's, where verdicts left it
NUM_MATCHES = 5  # evaluation images that are listed
AUDIT_HEADINGS = ("", "sentences", "precision", "recall", "kappa", "wrong by both", "check", "human")


def hallucination_tables(figures: Mapping[str, Any] | None, title: str = "") -> Iterator[RenderableType]:
    """Nothing where objects were not named or no image is annotated.

    Args:
        figures: as in summary.json.
    """
    if figures is None or not figures["kinds"]:
        return
    yield table_of_kinds(figures["kinds"], title)
    yield Text(f"with 95 % intervals; vocabulary {figures['vocabulary']}. {figures['limit']}", "dim")


def table_of_kinds(kinds: Mapping[str, Any], title: str = "") -> Table:
    """For each kind VIG's answer and the final one; those that are kept where some are not."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    headings = (title, "", "texts", "name an absent object", "absent of those named", "present ones named", "words")
    for number, heading in enumerate(headings):
        is_name = number < 2
        table.add_column(
            heading,
            header_style="bold" if not number else "dim",
            justify="left" if is_name else "right",
            no_wrap=is_name,
            overflow="fold",
        )
    for kind, answers in kinds.items():
        name = kind
        for answer, label in ANSWERS.items():
            found = answers.get(answer)
            if found is None or (answer == "kept" and found["num_texts"] == answers["vic"]["num_texts"]):
                continue
            rates = (_share(found[rate]) for rate in ("chair_s", "chair_i", "recall"))
            table.add_row(name, label, str(found["num_texts"]), *rates, _words(found["mean_words"]))
            name = ""
    return table


def _share(estimate: Mapping[str, float] | None) -> str:
    if estimate is None:
        return "-"
    return f"{estimate['value']:.1%} ({100 * estimate['low']:.1f}–{100 * estimate['high']:.1f})"


def _words(estimate: Mapping[str, float]) -> str:
    return f"{estimate['value']:.1f} ({estimate['low']:.1f}–{estimate['high']:.1f})"


def verdict_tables(verdicts: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
    """
    Args:
        verdicts: as in summary.json; those of other authors than `vigc filter` have no table.
    """
    for account in verdicts:
        if "filters" in account:
            yield filter_table(account)
            if num := account["made_since"]:
                yield Text(f"{num} conversations were made since and are judged by nothing: run `vigc filter` again.")


def evaluation_lines(account: Mapping[str, Any]) -> Iterator[str]:
    """Which images are like evaluation images."""
    if (evaluation := account.get("evaluation_images")) is None:
        return
    matches = evaluation["matches"]
    yield f"{len(matches)} images are like one of {evaluation['num_images']} in {evaluation['source']}"
    for match in matches[:NUM_MATCHES]:
        yield f"  {match['image_id']} is like {match['like']} ({match['distance']} of 64 bits differ)"
    if len(matches) > NUM_MATCHES:
        yield f"  and {len(matches) - NUM_MATCHES} more; --json lists them"


def filter_table(account: Mapping[str, Any]) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("filter", "judged", "rejected", "by it alone", ""):
        table.add_column(heading, header_style="dim", justify="left" if heading in ("filter", "") else "right")
    for one in account["filters"]:
        table.add_row(
            one["name"], str(one["judged"]), str(one["rejected"]), str(one["alone"]), Text(one["rule"], "dim")
        )
    table.add_section()
    table.add_row("all", str(account["judged"]), str(account["rejected"]), "", Text(f"{account['kept']} kept", "dim"))
    return table


def audit_tables(found: Audit) -> Iterator[RenderableType]:
    """Of all marks, and of those in the random sample where they are not the same."""
    yield from _agreement_tables(found.every, "all marks", found.grounding_below)
    if 0 < found.random.num_marks < found.every.num_marks:
        yield Text()
        yield from _agreement_tables(found.random, "random sample", found.grounding_below)
    if found.random.num_marks < found.every.num_marks:
        yield Text("Only the random sample speaks for the whole data: the checks chose the other rows.", "dim")
    if found.num_stale:
        yield Text(f"{found.num_stale} marks are of sentences that the data set does not hold any more.", "dim")


def _agreement_tables(checks: Checks, title: str, grounding_below: float) -> Iterator[RenderableType]:
    yield Text(f"{title}: {checks.num_marks} sentences, {checks.num_wrong} wrong by the human", "bold")
    table = Table(box=None, padding=(0, 2, 0, 0))
    for number, heading in enumerate(AUDIT_HEADINGS):
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
