"""The verb `experiment` at the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vigc.jobs.terminal import INTERRUPTED, Json, help_end, make_console, print_json
from vigc.jobs.train.command import make_recipes
from vigc.platform.records import ConfigError
from vigc.platform.tracking import NOT_TRACKED

if TYPE_CHECKING:
    from rich.table import Table

    from vigc.jobs.experiment.run import Benchmark
    from vigc.jobs.experiment.tables import Comparison
    from vigc.platform.quality.chair import Estimate

EXPERIMENT_EXAMPLES = help_end(
    "vigc experiment --out experiment                 # on scenes, with a tiny model: some hours on two cores",
    "vigc experiment --out own --model llava-hf/llava-1.5-7b-hf --base llava_instruct_80k.json --base-images coco \\",
    "    --images my_images --benchmark questions=held_out.jsonl --benchmark-images held_out --updates 600",
    "vigc experiment --out own … --generated data      # with a data set that is there already",
)
SMALL = (  # of the tiny model on scenes
    "trainable.lora=none",
    "trainable.language_model=true",
    "optimizer.peak=5e-4",
    "optimizer.num_warmup=10",
    "batch_size=16",
    "micro_batch_size=8",
    "precision=fp32",
    "parallel=ddp",
    "gradient_checkpointing=false",
    "checkpoint_every=50",
    "saved_as=float32",
)
SCENES_UPDATES = 150


def experiment(
    out: Annotated[str, typer.Option(help="The experiment's folder. The same command again goes on there.")],
    model: Annotated[
        str | None, typer.Option(help="That learns; LLaVA-style or InstructBLIP.", show_default="a tiny LLaVA")
    ] = None,
    base: Annotated[list[str] | None, typer.Option(help="Data that every arm learns. Repeats.")] = None,
    base_images: Annotated[str | None, typer.Option(help="The folder that their image names are below.")] = None,
    images: Annotated[str | None, typer.Option(help="Images that data are generated from.")] = None,
    generated: Annotated[str | None, typer.Option(help="An OUT of `vigc generate` instead of making one.")] = None,
    generator: Annotated[
        str | None, typer.Option(help="The model that generates.", show_default="the embedded model")
    ] = None,
    benchmark: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE[,ANNOTATIONS]", help="As for `vigc evaluate --benchmark`. Repeats."),
    ] = None,
    benchmark_images: Annotated[str | None, typer.Option(help="The folder that their image names are below.")] = None,
    arms: Annotated[str, typer.Option(help="What is compared.")] = "base,vig,vic,filtered",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each arm.")] = 3,
    updates: Annotated[
        int | None, typer.Option(min=1, help="Of the weights in each run.", show_default="150 on scenes")
    ] = None,
    recipe: Annotated[str, typer.Option(help="Of the runs.")] = "llava_lora",
    options: Annotated[
        list[str] | None, typer.Option("--set", metavar="OPTION=VALUE", help="Change one value of the recipe.")
    ] = None,
    min_grounding: Annotated[float, typer.Option(help="Of each sentence, that the filter asks for.")] = 0.0,
    told: Annotated[int, typer.Option(min=4, help="On scenes: those whose truth is told.")] = 60,
    silent: Annotated[int, typer.Option(min=4, help="On scenes: those that data are generated from.")] = 600,
    asked: Annotated[int, typer.Option(min=4, help="On scenes: those that are held out.")] = 150,
    seeing: Annotated[int, typer.Option(min=1, help="Updates in which the tiny model learns to see.")] = 200,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with a GPU if there are any.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    tracking: Annotated[
        str | None, typer.Option(envvar="MLFLOW_TRACKING_URI", help="An MLflow server to show the runs on, or none.")
    ] = None,
    json_: Json = False,
) -> None:
    """Tune a model with and without generated data, evaluate both, compare.

    Without data of your own it is an experiment on rendered scenes. Run the same command again to go on.
    """
    from vigc.jobs.experiment.run import ExperimentConfig, ScenesSize, run_experiment
    from vigc.platform.quality.settings import FilterSettings

    if updates is None and model is not None:
        raise ConfigError("--updates is missing. Say for how many updates each run learns; it is the same for all.")
    changed = [*(SMALL if model is None else ()), *(options or []), f"num_updates={updates or SCENES_UPDATES}"]
    config = ExperimentConfig(
        out=out,
        recipe=make_recipes(recipe, changed)[0],
        model=model,
        base_recipe=make_recipes("tiny_llava", [f"num_updates={seeing}"])[0] if model is None else None,
        base=tuple(base or ()),
        base_images=base_images,
        images=images,
        generator=generator,
        generated=generated,
        filters=FilterSettings(min_grounding=min_grounding),
        benchmarks=tuple(_benchmark(text, benchmark_images) for text in benchmark or ()),
        arms=tuple(arms.split(",")),
        seeds=tuple(range(seeds)),
        scenes=ScenesSize(told, silent, asked),
        workers=workers,
        device=device,
        tracking=None if tracking == NOT_TRACKED else tracking,
    )
    console = make_console(quiet=json_)
    try:
        done = run_experiment(config, lambda note: console.print(note, soft_wrap=True))
    except KeyboardInterrupt as stop:
        typer.echo("Stopped. The same command does what is left.", err=True)
        raise typer.Exit(INTERRUPTED) from stop
    if json_:
        print_json({"out": str(done.out), **done.table.as_json()})
        return
    console.print(shown(done.table, config.arms))
    console.print(f"Page: {done.out / 'report.html'}", soft_wrap=True)


def shown(table: Comparison, arms: tuple[str, ...]) -> Table:
    """The comparison on a terminal: the base data's figures, and how far each arm is from them."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False)
    for name in ("figure", "number", *arms):
        made.add_column(name, justify="left" if name == "figure" else "right")
    first, *others = arms
    for row in table.rows:
        name = f"{row.benchmark}, {row.part or row.measure}"
        gaps = (_signed(row.differences[arm]) for arm in others)
        made.add_row(name, str(row.num), _plain(row.arms[first]), *gaps)
    return made


def _plain(one: Estimate) -> str:
    return f"{one.value:.3f} ±{(one.high - one.low) / 2:.3f}"


def _signed(one: Estimate) -> str:
    text = f"{one.value:+.3f} ±{(one.high - one.low) / 2:.3f}"
    return f"[bold]{text}[/bold]" if one.is_clear else text


def _benchmark(text: str, images: str | None) -> Benchmark:
    from vigc.jobs.experiment.run import Benchmark

    name, equals, files = text.partition("=")
    questions, _, annotations = files.partition(",")
    if not equals or not questions:
        raise ConfigError(f"--benchmark {text!r}: give NAME=FILE, as in okvqa=questions.json,annotations.json.")
    return Benchmark(name, questions, annotations or None, images)
