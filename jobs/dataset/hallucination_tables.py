"""Hallucination before and after, as tables for the terminal: no rate without recall and length beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

ANSWERS = {"vig": "VIG", "vic": "VIC", "kept": "kept"}  # kept: VIC's, where verdicts left it


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
