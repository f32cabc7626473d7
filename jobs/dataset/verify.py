"""`vigc verify`: is everything there, exactly once and untorn, and, if asked for, are the images what they were?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from vigc.platform.dataset.store import Store
from vigc.platform.dataset.verify import Verification, verify
from vigc.platform.dataset.verify_images import ImageCheck, verify_images

NUM_NAMED = 20  # of changed and of unreadable images
SECONDS_WITHOUT_BAR = 1.0


@dataclass(frozen=True)
class Verified:
    rows: Verification
    images: ImageCheck | None  # None: not asked for, or the rows that name them are not whole

    @property
    def ok(self) -> bool:
        return self.rows.ok and (self.images is None or self.images.ok)


def run_verify(out: str, *, images: bool, sample: int | None, meter: ProgressBar) -> Verified:
    """
    Args:
        images: also read the source images again, or `sample` of them.
    Raises:
        StoreError: there is no data set at `out`.
    """
    with meter.shown("rows"):
        rows = verify(out, meter.report)
    if not images or not rows.ok:
        return Verified(rows, None)
    with meter.shown("source images"):
        return Verified(rows, verify_images(Store(out), sample, meter.report))


class ProgressBar:
    """A bar with rate and time left; only on a terminal, and only for what takes its time."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = 0.0

    @contextmanager
    def shown(self, what: str) -> Iterator[None]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        self._bar = Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)
        self._task = self._bar.add_task(what, total=None, rate="")
        self._started = time.monotonic()
        try:
            yield
        finally:
            self._bar.stop()

    def report(self, done: int, total: int) -> None:
        seconds = time.monotonic() - self._started
        if seconds >= SECONDS_WITHOUT_BAR:
            self._bar.update(self._task, completed=done, total=total, rate=f"{done / seconds:.0f}/s")
            self._bar.start()


def table_of(found: Verification) -> Table:
    """The passes."""
    table = Table(box=None, padding=(0, 3, 0, 0))
    for heading in ("pass", "kinds", "asked for", "rows", "failed"):
        table.add_column(heading, header_style="dim", justify="left" if heading in ("pass", "kinds") else "right")
    for one in found.passes:
        numbers = (str(one[name]) for name in ("num_requested", "num_rows", "num_failed"))
        table.add_row(one["pass"], ", ".join(one["kinds"]), *numbers)
    return table


def in_words(found: Verified) -> Iterator[str]:
    rows, images = found.rows, found.images
    yield from rows.problems
    if images is not None:
        yield from _named("changed since the data set was made", images.num_changed, images.changed)
        yield from _named("cannot be read any more", images.num_unreadable, images.unreadable)
        without = f"; {images.num_without_hash} could not be read at the time" if images.num_without_hash else ""
        yield (
            f"source images: {images.num_checked} read again, {images.num_changed} changed, "
            f"{images.num_unreadable} not readable any more{without}."
        )
    if rows.ok:
        failed = f", {rows.num_failed} of them for images that could not be used" if rows.num_failed else ""
        result = f"{rows.num_requested} images asked for, {rows.num_rows} rows{failed}, none double or torn."
        yield f"ok: {result}" if found.ok else f"not ok: the source images; else {result}"
        return
    yield f"not ok: {len(rows.problems)} problems; {rows.num_requested} images asked for, {rows.num_rows} rows."


def _named(what: str, number: int, listed: list[dict[str, str]]) -> Iterator[str]:
    for one in listed[:NUM_NAMED]:
        reason = f" ({one['reason']})" if "reason" in one else ""
        yield f"{one['image_id']}: {what}{reason}. It was read from {one['uri']}"
    if number > NUM_NAMED:
        yield f"{number - NUM_NAMED} more {what}; --json lists them."


def as_json(found: Verified) -> dict[str, Any]:
    """`images` is there where they were read."""
    images = {} if found.images is None else {"images": asdict(found.images)}
    return {"ok": found.ok, **asdict(found.rows), **images}
