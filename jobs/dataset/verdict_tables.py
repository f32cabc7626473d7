"""What filters decided, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

NUM_MATCHES = 5


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
