"""The flags of `vigc report` and `vigc audit`."""

from __future__ import annotations

from typing import Annotated

import typer

from vigc.jobs.terminal import Json, help_end, make_console, print_json

REPORT_EXAMPLES = help_end("vigc report data", "vigc report s3://bucket/data --worst 100 --random 200")
AUDIT_EXAMPLES = help_end("vigc audit data marks.json", "vigc audit data marks.json --grounding-below 0.3 --json")

Out = Annotated[str, typer.Argument(metavar="OUT", help="The dataset directory that `vigc generate` wrote.")]


def report(
    out: Out,
    worst: Annotated[int, typer.Option(min=0, help="Rows that name absent objects or owe the picture least.")] = 24,
    random: Annotated[int, typer.Option(min=0, help="Rows drawn evenly.")] = 24,
    rejected: Annotated[int, typer.Option(min=0, help="Rows with rejected conversations.")] = 12,
    json_: Json = False,
) -> None:
    """Write OUT/report.html: figures, and pictures with what was said of them, in one file to look at and to mark."""
    from vigc.jobs.terminal import Counting
    from vigc.platform.dataset.store import Store
    from vigc.platform.report import Sizes, write_report

    store = Store(out)
    store.existing_passes()
    with Counting(make_console(quiet=json_), "rows") as counting:
        place = write_report(store, sizes=Sizes(worst, random, rejected), on_progress=counting.report)
    if json_:
        print_json({"report": place})
    else:
        typer.echo(place)


def audit(
    out: Out,
    marks: Annotated[str, typer.Argument(metavar="MARKS", help="What the page of `vigc report` downloads.")],
    grounding_below: Annotated[
        float, typer.Option(help="A sentence counts as wrong by grounding below this, in nats per token.")
    ] = 0.0,
    json_: Json = False,
) -> None:
    """Say how far the automatic checks agree with a human who marked sentences in the report."""
    from dataclasses import asdict

    from vigc.jobs.dataset.tables import audit_tables
    from vigc.platform.dataset.store import Store
    from vigc.platform.report.audit import audit as run_audit
    from vigc.platform.report.audit import read_marks

    found = run_audit(Store(out), read_marks(marks), grounding_below)
    if json_:
        print_json(asdict(found))
        return
    console = make_console()
    for part in audit_tables(found):
        console.print(part)
