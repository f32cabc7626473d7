"""The verb `generate` at the terminal: its flags, which are the fields of GenerateConfig, and what it prints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vigc.jobs.config import GenerateConfig, default_of, make_config
from vigc.jobs.terminal import INTERRUPTED, NOT_OK, Json, help_end, make_console, print_json
from vigc.platform.records import ConfigError

if TYPE_CHECKING:
    from vigc.jobs.plan import Mode

# Flags that say which images are meant, and mean nothing where that follows from a data set.
CHOOSE_IMAGES = ("annotations", "source", "exclude", "limit", "sample", "shard")

GENERATE_EXAMPLES = help_end(
    "vigc generate photos --out data --limit 100",
    "vigc generate coco/train2017 --annotations coco/annotations/instances_train2017.json --out data",
    "vigc generate photos --out data --model Salesforce/instructblip-vicuna-7b --gpus-per-actor 1 --actors 8",
    "vigc generate photos --out data --policy shipped --engine reference --set max_steps=6",
    "vigc generate s3://bucket/photos --out s3://bucket/data --actors 1:16 --gpus-per-actor 1",
    "vigc generate --config run.yaml --seed 2      # run.yaml: `images: photos`, `out: data`, ...",
    "vigc generate --retry-failed data             # a further pass over the images that failed",
    "vigc generate --add-kind knowledge data       # a further pass for another kind",
)


def generate(
    context: typer.Context,
    images: Annotated[
        str | None,
        typer.Argument(
            metavar="IMAGES",
            help="A folder of images, COCO or Objects365 annotations, a manifest, tar shards, a Hugging Face data set; "
            "here, at s3://, gs:// or in a list of addresses. With --retry-failed and --add-kind: OUT.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Where the data go. The same command again continues there.", show_default=False)
    ] = None,
    annotations: Annotated[
        str | None, typer.Option(help="COCO annotation files for the images, with commas between them.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="auto, folder, coco, manifest, webdataset or huggingface.", show_default=default_of("source")
        ),
    ] = None,
    exclude: Annotated[str | None, typer.Option(help="A file of image ids to leave out.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N images.", show_default="all")] = None,
    sample: Annotated[int | None, typer.Option(help="N images drawn by --seed.", show_default="all")] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="The I-th of N parts, to share the work.", show_default="all")
    ] = None,
    max_pixels: Annotated[
        int | None, typer.Option(help="Larger pictures are not decoded.", show_default="89 million")
    ] = None,
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
        str | None,
        typer.Option(
            metavar="N|MIN:MAX", help="Processes that each hold the model.", show_default=default_of("actors")
        ),
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
    new: Annotated[
        bool, typer.Option("--new", help="Other settings than OUT was made with: add a pass; its answers count.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Insist that OUT is there to be continued.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Add a pass over the images of OUT that failed.")
    ] = False,
    add_kind: Annotated[
        str | None, typer.Option(metavar="KINDS", help="Add a pass over all images of OUT for other kinds.")
    ] = None,
    json_: Json = False,
) -> None:
    """Make a data set: VIG asks and answers about each image, VIC answers again sentence by sentence.

    Run the same command again to continue after an interruption; what is done is not done twice.
    """
    from vigc.jobs.generate import run_generate
    from vigc.jobs.plan import Mode
    from vigc.jobs.run_report import ProgressLine, say_outcome, say_plan

    given = {name: context.params[name] for name in GenerateConfig.model_fields}
    mode = _mode(overwrite=overwrite, new=new, resume=resume, retry_failed=retry_failed, add_kind=add_kind)
    settings = (
        _again(given, config, mode, add_kind)
        if mode in (Mode.RETRY_FAILED, Mode.ADD_KIND)
        else make_config(given, config)
    )
    console = make_console(quiet=json_)
    line = ProgressLine(console)
    try:
        with line.shown():
            outcome = run_generate(
                settings,
                mode=mode,
                on_plan=lambda plan, pass_: say_plan(console, plan, pass_),
                on_progress=line.report,
            )
    except KeyboardInterrupt as stop:
        notes = getattr(stop, "__notes__", None) or ["The same command continues."]
        typer.echo(f"Stopped. {' '.join(notes)}", err=True)
        raise typer.Exit(INTERRUPTED) from stop
    if json_:
        from vigc.jobs.run_report import outcome_as_json

        print_json(outcome_as_json(outcome))
    elif outcome.is_idle:
        typer.echo(outcome.note)
    else:
        say_outcome(console, outcome)
    if not outcome.summary["num_ok"]:
        typer.echo("No image gave a row that can be used; `vigc show OUT --failed` says why.", err=True)
        raise typer.Exit(NOT_OK)


def _mode(**flags: object) -> Mode:
    """At most one of the flags that say what to do with a data set that is there."""
    from vigc.jobs.plan import Mode

    given = [Mode(name.replace("_", "-")) for name, value in flags.items() if value not in (False, None)]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(f'--{mode}' for mode in given)} contradict each other. Give one of them.")
    return given[0] if given else Mode.CONTINUE


def _again(given: Mapping[str, Any], file: Path | None, mode: Mode, add_kind: str | None) -> GenerateConfig:
    """The settings of the newest run at OUT, given as IMAGES or with --out, under those of this command."""
    from vigc.jobs.plan import Mode, runs_of
    from vigc.platform.store import Store

    out = given["images"] or given["out"]
    if not out or (given["images"] and given["out"] and given["images"] != given["out"]):
        what = f"--{mode} {add_kind or 'KINDS'}" if mode is Mode.ADD_KIND else f"--{mode}"
        raise ConfigError(f"--{mode} needs OUT, the data set, once and nothing else: vigc generate {what} OUT.")
    if refused := [name for name in (*CHOOSE_IMAGES, "kinds") if given[name]]:
        raise ConfigError(f"--{refused[0]} does not go with --{mode}: images and kinds follow from the data set.")
    runs = [run for one in Store(out).existing_passes() for run in runs_of(one)]
    if not runs:
        raise ConfigError(f"{out} does not say how it was made, so --{mode} cannot go on from there. Use --new.")
    newest = sorted(runs, key=lambda run: str(run["started"]))[-1]
    earlier = {
        name: value for name, value in newest["config"].items() if name not in CHOOSE_IMAGES and value is not None
    }
    if earlier.get("model"):
        earlier["model"] = newest["model"]["location"]
    if given["policy"]:
        del earlier["set"]  # options of another policy
    elif given["policy_options"]:
        kept = [f"{name}={value}" for name, value in earlier["set"].items()]
        given = {**given, "policy_options": [*kept, *given["policy_options"]]}  # of two for one option, the last counts
    kinds = {} if add_kind is None else {"kinds": add_kind}
    return make_config({**given, **kinds, "images": earlier["images"], "out": out}, file, earlier)
