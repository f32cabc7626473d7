"""The verb `experiment` at the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from vigc.jobs.experiment.config import ExperimentConfig
from vigc.jobs.settings.command import Verb
from vigc.jobs.settings.options import Value
from vigc.jobs.terminal import INTERRUPTED, make_console, print_json
from vigc.platform.records import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from vigc.jobs.experiment.run import Benchmark, Experiment
    from vigc.jobs.experiment.tables import Comparison
    from vigc.platform.quality.chair import Estimate

SMALL: dict[str, Value] = {  # of the tiny model on scenes
    "trainable.lora": "none",
    "trainable.language_model": "true",
    "optimizer.peak": "5e-4",
    "optimizer.num_warmup": "10",
    "batch_size": "16",
    "micro_batch_size": "8",
    "precision": "fp32",
    "parallel": "ddp",
    "gradient_checkpointing": "false",
    "checkpoint_every": "50",
    "saved_as": "float32",
}
SCENES_UPDATES = 150


def experiment(config: ExperimentConfig) -> None:
    """Tune a model with and without generated data, evaluate both, compare.

    Without data of your own it is an experiment on rendered scenes. Run the same command again to go on.
    """
    from vigc.jobs.experiment.run import run_experiment

    console = make_console(quiet=config.json_)
    try:
        done = run_experiment(_resolved(config), lambda note: console.print(note, soft_wrap=True))
    except KeyboardInterrupt as stop:
        typer.echo("Stopped. The same command does what is left.", err=True)
        raise typer.Exit(INTERRUPTED) from stop
    if config.json_:
        print_json({"out": str(done.out), **done.table.as_json()})
        return
    console.print(shown(done.table, config.arms))
    console.print(f"Page: {done.out / 'report.html'}", soft_wrap=True)


def _resolved(config: ExperimentConfig) -> Experiment:
    from vigc.jobs.experiment.run import Experiment, ScenesSize
    from vigc.jobs.train.recipes import make_recipes
    from vigc.platform.quality.settings import FilterSettings

    is_tiny = config.model is None
    options = (SMALL if is_tiny else {}) | config.options | {"num_updates": config.updates or SCENES_UPDATES}
    return Experiment(
        out=config.out,
        recipe=make_recipes(config.recipe, options)[0],
        model=config.model,
        base_recipe=make_recipes("tiny_llava", {"num_updates": config.seeing})[0] if is_tiny else None,
        base=config.base,
        base_images=config.base_images,
        images=config.images,
        generator=config.generator,
        generated=config.generated,
        filters=FilterSettings(min_grounding=config.min_grounding),
        benchmarks=tuple(_benchmark(text, config.benchmark_images) for text in config.benchmark),
        arms=config.arms,
        seeds=tuple(range(config.seeds)),
        scenes=ScenesSize(config.labelled, config.unlabelled, config.held_out),
        workers=config.workers,
        device=config.device,
        tracking=config.tracking,
    )


def shown(table: Comparison, arms: tuple[str, ...]) -> Table:
    """The comparison on a terminal: the base data's metrics, and how far each arm is from them."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False)
    for name in ("metric", "number", *arms):
        made.add_column(name, justify="left" if name == "metric" else "right")
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


EXPERIMENT = Verb(
    ExperimentConfig,
    experiment,
    (
        "vigc experiment --out experiment                 # on scenes, with a tiny model: some hours on two cores",
        "vigc experiment --out own --model llava-hf/llava-1.5-7b-hf --base llava_instruct_80k.json \\",
        "    --base-images coco --images my_images --benchmark questions=held_out.jsonl \\",
        "    --benchmark-images held_out --updates 600",
        "vigc experiment --out own … --generated data      # with a data set that is there already",
    ),
)
