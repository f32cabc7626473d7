"""The verb `evaluate` at the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from vigc.jobs.evaluate.config import EvaluateConfig
from vigc.jobs.settings.command import Verb
from vigc.jobs.terminal import INTERRUPTED, make_console, print_json

if TYPE_CHECKING:
    from rich.console import Console

HEAD_FIRST = ("value", "low", "high")
COUNTED = ("mean_words",)  # figures that are no shares


def evaluate(config: EvaluateConfig) -> None:
    """Ask a model a benchmark's questions and score its answers, with 95 % intervals.

    Every answer is kept in OUT/predictions.parquet, the figures in OUT/scores.json.
    """
    from vigc.jobs.dataset.verify import ProgressBar
    from vigc.jobs.evaluate.run import rescore, run_evaluate

    console = make_console(quiet=config.json_)
    if config.rescore is not None:
        show(console, rescore(config.rescore, judge=config.judge, seed=config.seed), config.rescore, config.json_)
        return
    meter = ProgressBar(console)
    try:
        with meter.shown("images"):
            done = run_evaluate(
                config,
                on_progress=lambda now: meter.report(now.done, now.total),
                on_note=lambda note: console.print(note, soft_wrap=True),
            )
    except KeyboardInterrupt as stop:
        typer.echo("\n".join(["Stopped.", *getattr(stop, "__notes__", ())]), err=True)
        raise typer.Exit(INTERRUPTED) from stop
    show(console, done.scores, done.out, config.json_)


def show(console: Console, scores: dict[str, Any], out: str, json_: bool) -> None:
    if json_:
        print_json(scores)
        return
    from rich.table import Table

    table = Table(box=None, padding=(0, 3, 0, 0))
    for heading in (scores["benchmark"], "", "95 %", "questions"):
        table.add_column(heading, header_style="dim", justify="right" if heading in ("", "questions") else "left")
    for part, figures in (("", scores["scores"]), *scores["parts"].items()):
        for name, one in figures.items():
            label = f"{part}: {name}" if part else name
            if one is None:
                table.add_row(label, "–", "", "")
                continue
            scale, unit = (1, "") if name in COUNTED else (100, " %")
            value, low, high = (f"{one[key] * scale:.1f}" for key in HEAD_FIRST)
            table.add_row(label, f"{value}{unit}", f"{low} – {high}", str(one["num"]))
    console.print(table)
    for name, number in scores["counts"].items():
        typer.echo(f"{name.replace('_', ' ')}: {number}")
    if scores["num_failed"]:
        typer.echo(f"{scores['num_failed']} of {scores['num_questions']} questions have no answer and count as wrong.")
    for note in scores["notes"]:
        typer.echo(note)
    typer.echo(f"{out}/scores.json, {out}/predictions.parquet")


EVALUATE = Verb(
    EvaluateConfig,
    evaluate,
    (
        "vigc evaluate tuned --benchmark okvqa --questions OpenEnded_mscoco_val2014_questions.json "
        "--annotations mscoco_val2014_annotations.json --images coco --out eval",
        "vigc evaluate llava-1.5-7b-hf --benchmark pope --questions pope --images coco/val2014 --out eval",
        "vigc evaluate http://127.0.0.1:8000/v1 --endpoint-model big --benchmark mmbench --questions dev.tsv "
        "--out eval",
        "vigc evaluate embedded --benchmark chair --questions scenes --out eval",
        "vigc evaluate --rescore eval",
    ),
)
