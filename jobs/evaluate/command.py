"""The verb `evaluate` at the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vigc.jobs.terminal import INTERRUPTED, Json, help_end, make_console, print_json
from vigc.platform.records import ConfigError
from vigc.platform.tracking import NOT_TRACKED

if TYPE_CHECKING:
    from rich.console import Console

EVALUATE_EXAMPLES = help_end(
    "vigc evaluate tuned --benchmark okvqa --questions OpenEnded_mscoco_val2014_questions.json "
    "--annotations mscoco_val2014_annotations.json --images coco --out eval",
    "vigc evaluate llava-1.5-7b-hf --benchmark pope --questions pope --images coco/val2014 --out eval",
    "vigc evaluate http://127.0.0.1:8000/v1 --endpoint-model big --benchmark mmbench --questions dev.tsv --out eval",
    "vigc evaluate embedded --benchmark chair --questions scenes --out eval",
    "vigc evaluate --rescore eval",
)
HEAD_FIRST = ("value", "low", "high")
COUNTED = ("mean_words",)  # figures that are no shares


def evaluate(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A folder or hub id of an InstructBLIP or VIGC model, the folder of any image-text-to-text model of "
            "transformers, the address of an OpenAI-compatible endpoint (http://HOST/v1), or `embedded`.",
            show_default=False,
        ),
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            metavar="okvqa|vqav2|aokvqa|mmbench|llava|pope|chair|questions",
            help="What is asked; `questions` is a file of your own.",
            show_default=False,
        ),
    ] = None,
    questions: Annotated[
        str | None,
        typer.Option(help="Its file of questions, as published; for chair the annotated images.", show_default=False),
    ] = None,
    annotations: Annotated[
        str | None, typer.Option(help="okvqa, vqav2: the file of answers; chair: COCO annotations.")
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            help="The folder that image names are below; for COCO the one above val2014.",
            show_default="the folder of the questions",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(help="Where the evaluation goes. The same command again continues there.", show_default=False),
    ] = None,
    references: Annotated[str | None, typer.Option(help="llava: the file of reference answers.")] = None,
    context: Annotated[
        str | None, typer.Option(help="llava: the file of captions and boxes, or of captions, for the judge.")
    ] = None,
    objects: Annotated[str, typer.Option(metavar="auto|coco|objects365|FILE", help="chair: the categories.")] = "auto",
    difficult: Annotated[
        str, typer.Option(metavar="direct|choice|none", help="aokvqa: where difficult questions are left out.")
    ] = "direct",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N questions.", show_default="all")] = None,
    endpoint_model: Annotated[str | None, typer.Option(help="Which of an endpoint's models is asked.")] = None,
    prompt: Annotated[
        str | None,
        typer.Option(metavar="TEMPLATE", help="How all questions are put; holds {question}.", show_default="by model"),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(help="A prompt pack (YAML), for InstructBLIP and VIGC.", show_default="the project's own"),
    ] = None,
    policy: Annotated[str, typer.Option(help="How free answers of InstructBLIP and VIGC are made.")] = "paper",
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Of an answer.", show_default="by question")] = None,
    judge_url: Annotated[str | None, typer.Option(help="llava, mmbench: an endpoint that judges.")] = None,
    judge_model: Annotated[str | None, typer.Option(help="Which of its models judges.")] = None,
    judgements: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Recorded judgements to replay. May be repeated.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[
        str,
        typer.Option(help="auto, float32, bfloat16 or float16.", show_default="bfloat16 on a GPU, else float32"),
    ] = "auto",
    slots: Annotated[int, typer.Option(min=1, help="Answered at once by an actor.")] = 16,
    actors: Annotated[int, typer.Option(min=1, help="Processes that each hold the model.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the intervals.")] = 0,
    tracking: Annotated[
        str | None,
        typer.Option(envvar="MLFLOW_TRACKING_URI", help="An MLflow server to show the figures on; none: nowhere."),
    ] = None,
    rescore: Annotated[
        str | None, typer.Option(metavar="EVAL", help="Score a stored evaluation again, without the model.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the evaluation at OUT.")] = False,
    json_: Json = False,
) -> None:
    """Ask a model a benchmark's questions and score its answers, with 95 % intervals.

    Every answer is kept in OUT/predictions.parquet, the figures in OUT/scores.json.
    """
    from vigc.jobs.evaluate import run as job

    judge = job.JudgeConfig(judge_url, judge_model, tuple(judgements or ()))
    console = make_console(quiet=json_)
    if rescore is not None:
        if model is not None:
            raise ConfigError("--rescore takes a stored evaluation and no model. Leave MODEL out.")
        show(console, job.rescore(rescore, judge=judge, seed=seed), rescore, json_)
        return
    given = {"MODEL": model, "--benchmark": benchmark, "--questions": questions, "--out": out}
    if lacking := [name for name, value in given.items() if not value]:
        raise ConfigError(f"{lacking[0]} is missing. See `vigc evaluate --help`.")
    config = job.EvaluateConfig(
        model=str(model),
        benchmark=str(benchmark),
        questions=str(questions),
        out=str(out),
        annotations=annotations,
        images=images,
        references=references,
        context=context,
        objects=objects,
        limit=limit,
        endpoint_model=endpoint_model,
        prompt=prompt,
        prompts=prompts,
        policy=policy,
        max_tokens=max_tokens,
        difficult=difficult,
        judge=judge,
        device=device,
        dtype=dtype,
        slots=slots,
        actors=actors,
        seed=seed,
        tracking=None if tracking == NOT_TRACKED else tracking,
        overwrite=overwrite,
    )
    from vigc.jobs.dataset.verify import ProgressBar

    meter = ProgressBar(console)
    try:
        with meter.shown("images"):
            done = job.run_evaluate(config, on_progress=lambda now: meter.report(now.done, now.total))
    except KeyboardInterrupt as stop:
        typer.echo("\n".join(["Stopped.", *getattr(stop, "__notes__", ())]), err=True)
        raise typer.Exit(INTERRUPTED) from stop
    show(console, done.scores, done.out, json_)


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
