"""The verb `generate` at the terminal: its flags, which are the fields of GenerateConfig, and what it prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vigc.jobs.config import GenerateConfig, default_of, make_config
from vigc.jobs.terminal import INTERRUPTED, NOT_OK, Json, help_end, make_console, print_json

GENERATE_EXAMPLES = help_end(
    "vigc generate photos --out data --limit 100",
    "vigc generate coco/train2017 --annotations coco/annotations/instances_train2017.json --out data",
    "vigc generate photos --out data --model Salesforce/instructblip-vicuna-7b --gpus-per-actor 1 --actors 8",
    "vigc generate photos --out data --policy shipped --engine reference --set max_steps=6",
    "vigc generate --config run.yaml --seed 2      # run.yaml: `images: photos`, `out: data`, ...",
)


def generate(
    context: typer.Context,
    images: Annotated[
        str | None,
        typer.Argument(
            metavar="IMAGES", help="A folder of images; with annotations.json in it, COCO.", show_default=False
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Where the data go. The same command again continues there.", show_default=False)
    ] = None,
    annotations: Annotated[str | None, typer.Option(help="A COCO annotation file for the images.")] = None,
    source: Annotated[str | None, typer.Option(help="auto, folder or coco.", show_default=default_of("source"))] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N images.", show_default="all")] = None,
    model: Annotated[
        str | None, typer.Option(help="A folder or hub id of an InstructBLIP model.", show_default="the embedded model")
    ] = None,
    kinds: Annotated[
        str | None,
        typer.Option(
            help="Some of conversation, detail, reasoning, knowledge; with commas.", show_default=default_of("kinds")
        ),
    ] = None,
    prompts: Annotated[str | None, typer.Option(help="A prompt pack (YAML).", show_default="the project's own")] = None,
    policy: Annotated[
        str | None, typer.Option(help="How VIC iterates: paper or shipped.", show_default=default_of("policy"))
    ] = None,
    policy_options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="OPTION=VALUE", help="Change one option of the policy. May be repeated."),
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.", show_default="the policy's")] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Sample from the likeliest words that make up this share.", show_default="the policy's"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of sampling.", show_default=default_of("seed"))] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="continuous, or reference (slow; the paper's loop, done plainly).", show_default=default_of("engine")
        ),
    ] = None,
    slots: Annotated[
        int | None, typer.Option(help="Conversations that an actor decodes at once.", show_default=default_of("slots"))
    ] = None,
    actors: Annotated[
        int | None, typer.Option(help="Processes that each hold the model.", show_default=default_of("actors"))
    ] = None,
    gpus_per_actor: Annotated[
        float | None, typer.Option(help="May be a fraction.", show_default="1 if there is a GPU, else 0")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.", show_default=default_of("device"))] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="auto, float32, bfloat16 or float16.", show_default="bfloat16 on a GPU, else float32"),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file whose keys are these flags; flags win.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the data set at OUT.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Insist that OUT is there to be continued.")] = False,
    json_: Json = False,
) -> None:
    """Make a data set: VIG asks and answers about each image, VIC answers again sentence by sentence.

    Run the same command again to continue after an interruption; what is done is not done twice.
    """
    from vigc.jobs.generate import run_generate
    from vigc.jobs.run_report import ProgressLine, say_outcome, say_plan

    given = {name: context.params[name] for name in GenerateConfig.model_fields}
    settings = make_config(given, config)
    console = make_console(quiet=json_)
    line = ProgressLine(console)
    try:
        with line.shown():
            outcome = run_generate(
                settings,
                overwrite=overwrite,
                resume=resume,
                on_plan=lambda plan: say_plan(console, plan),
                on_progress=line.report,
            )
    except KeyboardInterrupt as stop:
        notes = getattr(stop, "__notes__", None) or ["The same command continues."]
        typer.echo(f"Stopped. {' '.join(notes)}", err=True)
        raise typer.Exit(INTERRUPTED) from stop
    if json_:
        from vigc.jobs.run_report import outcome_as_json

        print_json(outcome_as_json(outcome))
    else:
        say_outcome(console, outcome)
    if not outcome.summary["num_ok"]:
        typer.echo("No image gave a row that can be used; `vigc show OUT --failed` says why.", err=True)
        raise typer.Exit(NOT_OK)
