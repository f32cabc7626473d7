"""`vigc show`: rows as readable text, VIG's answer and VIC's final one side by side."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import SequenceMatcher
from itertools import islice
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from vigc.platform.dataset.store import Store
from vigc.platform.records import ConfigError, InputError, Kind, RowStatus, Verdict

Row = Mapping[str, Any]


def select_rows(
    store: Store, *, image_id: str | None = None, kind: str | None = None, rejected: bool = False, failed: bool = False
) -> Iterator[dict[str, Any]]:
    """Rows that match, each with only its matching conversations; failed ones when asked for, by `failed` or by id.

    Raises:
        InputError: there is no such image in the data set.
        ConfigError: no such kind.
    """
    if kind is not None and kind not in tuple(Kind):
        raise ConfigError(f"There is no kind {kind!r}; use {', '.join(Kind)}.")
    store.existing_passes()
    return _matching(store, image_id, kind, rejected, failed)


def _matching(
    store: Store, image_id: str | None, kind: str | None, rejected: bool, failed: bool
) -> Iterator[dict[str, Any]]:
    is_known = False
    for row in store.rows():
        if image_id is not None and row["image_id"] != image_id:
            continue
        is_known = True
        if row["status"] == RowStatus.FAILED:
            if failed or (image_id is not None and not rejected):
                yield row
            continue
        spoken = [
            c
            for c in row["conversations"]
            if kind in (None, c["kind"]) and (not rejected or c["status"] == Verdict.REJECTED)
        ]
        if spoken and not failed:
            yield row | {"conversations": spoken}
    if image_id is not None and not is_known:
        raise InputError(
            f"{store} has no row for the image {image_id!r}. An image_id is the path below the folder of images."
        )


def show_rows(console: Console, rows: Iterable[Row], limit: int | None) -> int:
    """Prints up to `limit` rows and returns how many there were."""
    number = 0
    for row in islice(rows, limit):
        console.print(render_row(row, console))
        number += 1
    return number


def as_json_lines(rows: Iterable[Row], limit: int | None) -> Iterator[str]:
    return (json.dumps(row, ensure_ascii=False) for row in islice(rows, limit))


def render_row(row: Row, console: Console) -> RenderableType:
    size = f"  {row['width']} x {row['height']}" if row.get("width") else ""
    parts: list[RenderableType] = [Rule(Text(f"{row['image_id']}{size}", "bold"), align="left")]
    if row["status"] == RowStatus.FAILED:
        parts.append(Text.assemble(("failed", "red"), f"  {row['error']['kind']}: {row['error']['message']}\n"))
    parts.extend(render_conversation(spoken, console) for spoken in row["conversations"])
    return Group(*parts)


def render_conversation(spoken: Mapping[str, Any], console: Console) -> RenderableType:
    """The question, and the two answers in two columns."""
    heading = Text.assemble(
        (f"{spoken['kind']:<13}", "cyan"), (spoken["question"] or "(no question: VIG's output did not parse)", "bold")
    )
    if spoken["status"] == Verdict.REJECTED:
        heading.append(f"  rejected: {', '.join(spoken['reasons'])}", "red")
    colours = console.color_system is not None
    vig, vic = (
        marked(spoken["vig_answer"], spoken["answer"], colours=colours)
        if spoken["question"] and spoken["vig_answer"]
        else (Text(spoken["vig_answer"]), Text(spoken["answer"]))
    )
    columns = Table(box=None, expand=True, show_edge=False, padding=(0, 2, 0, 0))
    columns.add_column("VIG", ratio=1, header_style="dim", overflow="fold")
    columns.add_column("VIC", ratio=1, header_style="dim", overflow="fold")
    columns.add_row(vig, vic)
    return Group(heading, columns, Text())


def marked(before: str, after: str, *, colours: bool) -> tuple[Text, Text]:
    """What VIC changed in VIG's answer: both texts, each with the words marked that the other does not have.

    In colours, words that VIC dropped are struck out in red and new ones stand in green; without colours they are
    written `[-dropped-]` and `{+new+}`, as wdiff does.
    """
    old, new = _words(before), _words(after)
    left, right = Text(), Text()
    matcher = SequenceMatcher(None, [word.strip() for word in old], [word.strip() for word in new], autojunk=False)
    for change, a, b, c, d in matcher.get_opcodes():
        for text, words, style, opening, closing in (
            (left, old[a:b], "red strike", "[-", "-]"),
            (right, new[c:d], "bold green", "{+", "+}"),
        ):
            joined = "".join(words)
            if change == "equal" or not joined.strip():
                text.append(joined)
            elif colours:
                text.append(joined, style)
            else:
                stripped = joined.rstrip()
                text.append(f"{opening}{stripped}{closing}{joined[len(stripped) :]}")
    return left, right


def _words(text: str) -> list[str]:
    """Words with the blanks behind them; joined they give the text back."""
    return re.findall(r"\S+\s*|^\s+", text)
