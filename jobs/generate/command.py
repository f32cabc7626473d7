"""The verb `generate` at the terminal."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import typer

from vigc.jobs.generate.config import GenerateConfig, Mode, SummaryConfig, mode_of
from vigc.jobs.settings.command import Verb
from vigc.jobs.settings.config import Flags, read_config
from vigc.jobs.terminal import BUDGET_SPENT, INTERRUPTED, NOT_OK, make_console, print_json


def read_generate(config: type[GenerateConfig], flags: Flags, file: Path | None) -> GenerateConfig:
    """A further pass of a data set takes the settings from there that it is not given."""
    if mode_of(flags) not in (Mode.RETRY_FAILED, Mode.ADD_KIND):
        return read_config(config, flags, file)
    from vigc.jobs.generate.plan import settings_again

    return settings_again(flags, file)


def generate(config: GenerateConfig) -> None:
    """Make a data set: VIG asks and answers about each image, VIC answers again sentence by sentence.

    Run the same command again to continue after an interruption; what is done is not done twice.
    """
    from vigc.jobs.generate.cost import BudgetSpent
    from vigc.jobs.generate.run import run_generate
    from vigc.jobs.generate.terminal import ProgressLine, outcome_as_json, say_outcome, say_plan

    console = make_console(quiet=config.json_)
    line = ProgressLine(console, partial(typer.echo, err=True) if config.json_ else None)
    try:
        with line.shown():
            outcome = run_generate(
                config,
                on_plan=lambda plan, pass_: say_plan(console, plan, pass_),
                on_progress=line.report,
                on_note=line.note,
            )
    except KeyboardInterrupt as stop:
        notes = getattr(stop, "__notes__", None) or ["The same command continues."]
        typer.echo(f"Stopped. {' '.join(notes)}", err=True)
        raise typer.Exit(INTERRUPTED) from stop
    except BudgetSpent as spent:
        typer.echo(f"Stopped. {spent}", err=True)
        raise typer.Exit(BUDGET_SPENT) from spent
    if config.json_:
        print_json(outcome_as_json(outcome))
    elif outcome.is_idle:
        typer.echo(outcome.note)
    else:
        say_outcome(console, outcome)
    if not outcome.summary["num_ok"]:
        typer.echo("No image gave a row that can be used; `vigc show OUT --failed` says why.", err=True)
        raise typer.Exit(NOT_OK)


def summary(config: SummaryConfig) -> None:
    """Count what a data set holds, and how often it names objects that are not there, before and after VIC."""
    from vigc.jobs.generate.summary import run_summary, say_summary

    found = run_summary(config.data, config.by)
    if config.json_:
        print_json(found)
    else:
        say_summary(make_console(), found)


GENERATE = Verb(
    GenerateConfig,
    generate,
    (
        "vigc generate photos --out data --limit 100",
        "vigc generate coco/train2017 --annotations coco/annotations/instances_train2017.json --out data",
        "vigc generate photos --out data --model Salesforce/instructblip-vicuna-7b --gpus-per-actor 1 --actors 8",
        "vigc generate photos --out data --policy shipped --engine reference --set max_steps=6",
        "vigc generate s3://bucket/photos --out s3://bucket/data --actors 1:16 --gpus-per-actor 1",
        "vigc generate --config run.yaml --seed 2      # run.yaml: `images: photos`, `out: data`, ...",
        "vigc generate --retry-failed data             # a further pass over the images that failed",
        "vigc generate --add-kind knowledge data       # a further pass for another kind",
    ),
    read=read_generate,
)
SUMMARY = Verb(
    SummaryConfig,
    summary,
    ("vigc summary data", "vigc summary data --by folder", "vigc summary data --by domains.csv --json"),
)
