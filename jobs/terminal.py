"""What all verbs share at the terminal: exit codes, help's last lines, JSON and text output."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

NOT_OK, WRONG_USE, FAULT, BUDGET_SPENT, INTERRUPTED = 1, 2, 3, 4, 130

EXIT_CODES = (
    "Exit codes: 0 done; 1 the data are not ok (verify found problems, no image gave a row, doctor misses something); "
    "2 wrong use or input, said in one line; 3 a fault in vigc itself; 4 the budget is spent; 130 stopped (Ctrl-C, "
    "SIGTERM, SIGHUP)."
)

JSON_HELP = "Print JSON for machines, and nothing else, on stdout."
Json = Annotated[bool, typer.Option("--json", help=JSON_HELP)]


def help_end(*examples: str) -> str:
    """Examples and exit codes, as Typer wants them: a blank line keeps lines apart."""
    return "\n\n".join(["[bold]Examples[/bold]", *(f"  {line}" for line in examples), EXIT_CODES])


def make_console(*, quiet: bool = False) -> Console:
    from rich.console import Console

    return Console(highlight=False, quiet=quiet)


def print_json(content: Mapping[str, Any]) -> None:
    typer.echo(json.dumps(content, ensure_ascii=False, indent=2))


def interrupt_on_every_stop() -> None:
    """SIGTERM, which stops containers and spot machines, and SIGHUP of a closed terminal interrupt as Ctrl-C does.

    Under nohup SIGHUP stays ignored.
    """
    for one in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(one) is signal.SIG_DFL:
            signal.signal(one, signal.default_int_handler)


class Counting:
    """A spinner for commands whose total is not known; silent off a terminal."""

    def __init__(self, console: Console, what: str) -> None:
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

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
