"""The verb `generate` at the terminal: its flags, which are the fields of GenerateConfig, and what it prints."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vigc.jobs.generate.config import GenerateConfig, default_of, make_config
from vigc.jobs.terminal import INTERRUPTED, JSON_HELP, NOT_OK, help_end, make_console, print_json
from vigc.model.completion import CPU_SLOTS, GPU_SLOTS
from vigc.platform.records import ConfigError

if TYPE_CHECKING:
    from vigc.jobs.generate.plan import Mode

# Flags that say which images are meant, and mean nothing where that follows from a data set.
CHOOSE_IMAGES = ("annotations", "source", "exclude", "limit", "sample", "shard")

# Headings of the help.
IMAGES, MODEL, RUN, DATA_SET = "Which images", "What is made of them", "How it runs", "The data set at OUT"

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
        str | None,
        typer.Option(
            help="Where the data go. The same command again continues there.",
            show_default=False,
            rich_help_panel=DATA_SET,
        ),
    ] = None,
    annotations: Annotated[
        str | None,
        typer.Option(help="COCO annotation files for the images, with commas between them.", rich_help_panel=IMAGES),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="auto, folder, coco, manifest, webdataset or huggingface.",
            show_default=default_of("source"),
            rich_help_panel=IMAGES,
        ),
    ] = None,
    exclude: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Leave out these ids: lines, JSON, Parquet or CSV.", rich_help_panel=IMAGES),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Only the first N images.", show_default="all", rich_help_panel=IMAGES)
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(help="N images drawn by --seed, the same each time.", show_default="all", rich_help_panel=IMAGES),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", help="The I-th of N parts, to share the work.", show_default="all", rich_help_panel=IMAGES
        ),
    ] = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(help="Larger pictures are not decoded.", show_default="89 million", rich_help_panel=IMAGES),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A folder or hub id of an InstructBLIP model.",
            show_default="the embedded model",
            rich_help_panel=MODEL,
        ),
    ] = None,
    kinds: Annotated[
        str | None,
        typer.Option(
            help="Some of conversation, detail, reasoning, knowledge; with commas.",
            show_default=default_of("kinds"),
            rich_help_panel=MODEL,
        ),
    ] = None,
    prompts: Annotated[
        str | None, typer.Option(help="A prompt pack (YAML).", show_default="the project's own", rich_help_panel=MODEL)
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            help="How VIC iterates: paper, verified, lean or shipped.",
            show_default=default_of("policy"),
            rich_help_panel=MODEL,
        ),
    ] = None,
    policy_options: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="OPTION=VALUE",
            help="Change one option of the policy. May be repeated.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    objects: Annotated[
        str | None,
        typer.Option(
            metavar="auto|none|coco|objects365|FILE",
            help="What objects are named in, to count those that are absent; auto: in the annotations' categories.",
            show_default=default_of("objects"),
            rich_help_panel=MODEL,
        ),
    ] = None,
    grounding: Annotated[
        str | None,
        typer.Option(
            metavar="none|asked|blank",
            help="Measure what each sentence owes to the image: ask about each object it names, or compare with "
            "a blank image.",
            show_default="the policy's",
            rich_help_panel=MODEL,
        ),
    ] = None,
    correct: Annotated[
        str | None,
        typer.Option(
            metavar="verify,choose,candidates",
            help="Let grounding correct beyond VIC: say anew what the model denies, keep VIG's answer where it is "
            "better grounded, choose among sampled sentences.",
            show_default="VIC alone",
            rich_help_panel=MODEL,
        ),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0 is greedy.", show_default="the policy's", rich_help_panel=MODEL)
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Sample from the likeliest words that make up this share.",
            show_default="the policy's",
            rich_help_panel=MODEL,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Of --sample, and of words that are sampled.", show_default=default_of("seed"), rich_help_panel=MODEL
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="continuous; vllm (the language model in vLLM; see `make vllm`); or reference (slow; the paper's "
            "loop, done plainly).",
            show_default=default_of("engine"),
            rich_help_panel=RUN,
        ),
    ] = None,
    vllm_python: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Of --engine vllm: the Python of the environment that vLLM is in, on every machine.",
            show_default="VIGC_VLLM_PYTHON, or .venv-vllm/bin/python",
            rich_help_panel=RUN,
        ),
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(
            help="Conversations that an actor decodes at once.",
            show_default=f"what memory allows, at most {CPU_SLOTS} on a CPU and {GPU_SLOTS} on a GPU",
            rich_help_panel=RUN,
        ),
    ] = None,
    engine_memory: Annotated[
        float | None,
        typer.Option(
            metavar="GIB",
            help="For the slots and images of an actor; fewer slots where they need more.",
            show_default="what is free",
            rich_help_panel=RUN,
        ),
    ] = None,
    actors: Annotated[
        str | None,
        typer.Option(
            metavar="N|MIN:MAX",
            help="Processes that each hold the model; between MIN and MAX as there is work.",
            show_default=default_of("actors"),
            rich_help_panel=RUN,
        ),
    ] = None,
    gpus_per_actor: Annotated[
        float | None,
        typer.Option(
            help="For each actor; may be a fraction.", show_default="1 if there is a GPU, else 0", rich_help_panel=RUN
        ),
    ] = None,
    stuck_after: Annotated[
        float | None,
        typer.Option(
            metavar="MINUTES",
            help="When no process was at work for so long, start again from what is committed.",
            show_default=default_of("stuck_after"),
            rich_help_panel=RUN,
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu or cuda.", show_default=default_of("device"), rich_help_panel=RUN)
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="auto, float32, bfloat16 or float16.",
            show_default="bfloat16 on a GPU, else float32",
            rich_help_panel=RUN,
        ),
    ] = None,
    tracking: Annotated[
        str | None,
        typer.Option(
            metavar="URI|none",
            help="Where MLflow shows the run; needs `mlflow`.",
            show_default="MLFLOW_TRACKING_URI, or mlflow.db beside OUT",
            rich_help_panel=RUN,
        ),
    ] = None,
    price: Annotated[
        float | None,
        typer.Option(
            help="Of a GPU-hour, or a machine-hour where there is no GPU: shows the cost so far.",
            show_default=False,
            rich_help_panel=RUN,
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A YAML file whose keys are these flags; flags win.", rich_help_panel=RUN)
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the data set at OUT.", rich_help_panel=DATA_SET)
    ] = False,
    new: Annotated[
        bool,
        typer.Option(
            "--new",
            help="Other settings than OUT was made with: add a pass; its answers count.",
            rich_help_panel=DATA_SET,
        ),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Insist that OUT is there to be continued.", rich_help_panel=DATA_SET)
    ] = False,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Add a pass over the images of OUT that failed.", rich_help_panel=DATA_SET),
    ] = False,
    add_kind: Annotated[
        str | None,
        typer.Option(
            metavar="KINDS", help="Add a pass over all images of OUT for other kinds.", rich_help_panel=DATA_SET
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help=JSON_HELP, rich_help_panel=RUN)] = False,
) -> None:
    """Make a data set: VIG asks and answers about each image, VIC answers again sentence by sentence.

    Run the same command again to continue after an interruption; what is done is not done twice.
    """
    from vigc.jobs.generate.plan import Mode
    from vigc.jobs.generate.run import run_generate
    from vigc.jobs.generate.terminal import ProgressLine, say_outcome, say_plan

    given = {name: context.params[name] for name in GenerateConfig.model_fields}
    mode = _mode(overwrite=overwrite, new=new, resume=resume, retry_failed=retry_failed, add_kind=add_kind)
    settings = (
        settings_again(given, config, mode, add_kind)
        if mode in (Mode.RETRY_FAILED, Mode.ADD_KIND)
        else make_config(given, config)
    )
    console = make_console(quiet=json_)
    line = ProgressLine(console, partial(typer.echo, err=True) if json_ else None)
    try:
        with line.shown():
            outcome = run_generate(
                settings,
                mode=mode,
                on_plan=lambda plan, pass_: say_plan(console, plan, pass_),
                on_progress=line.report,
                on_note=line.note,
            )
    except KeyboardInterrupt as stop:
        notes = getattr(stop, "__notes__", None) or ["The same command continues."]
        typer.echo(f"Stopped. {' '.join(notes)}", err=True)
        raise typer.Exit(INTERRUPTED) from stop
    if json_:
        from vigc.jobs.generate.terminal import outcome_as_json

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
    from vigc.jobs.generate.plan import Mode

    given = [Mode(name.replace("_", "-")) for name, value in flags.items() if value not in (False, None)]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(f'--{mode}' for mode in given)} contradict each other. Give one of them.")
    return given[0] if given else Mode.CONTINUE


def settings_again(given: Mapping[str, Any], file: Path | None, mode: Mode, add_kind: str | None) -> GenerateConfig:
    """The settings of the newest run at OUT, given as IMAGES or with --out, where this command gives no others."""
    from vigc.jobs.generate.plan import Mode, runs_of
    from vigc.platform.dataset.store import Store

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
