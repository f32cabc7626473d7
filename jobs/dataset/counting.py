"""How far a verb is that does not know how much there is: a line on a terminal, nothing elsewhere."""

from __future__ import annotations

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Counting:
    def __init__(self, console: Console, what: str) -> None:
        self._what = what
        columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
        self._line = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._line.add_task(what, total=None)

    def report(self, num: int) -> None:
        self._line.update(self._task, description=f"{num} {self._what}")

    def __enter__(self) -> Counting:
        self._line.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._line.stop()
