"""The verbs `train` and `finetune` at the terminal."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vigc.jobs.settings.command import Verb
from vigc.jobs.terminal import INTERRUPTED, make_console, print_json
from vigc.jobs.train.config import FinetuneConfig, TrainConfig
from vigc.platform.records import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from vigc.jobs.train.plan import TrainPlan
    from vigc.jobs.train.run import TrainOutcome

DEFAULT_RECIPES = {"llava": "llava_lora", "instructblip": "instructblip_answers"}


def train(config: TrainConfig) -> None:
    """Fine-tune the Q-Former and the projection (or what the recipe says) on question-answer data.

    Run the same command again to continue after an interruption.
    """
    from vigc.jobs.train.recipes import make_recipes

    stages = make_recipes(config.recipe, config.options)
    if config.print_:
        shown = [asdict(stage) for stage in stages]
        typer.echo(json.dumps(shown if len(shown) > 1 else shown[0], indent=2))
        return
    from vigc.jobs.train.plan import fresh_model, make_plan
    from vigc.jobs.train.run import merge_run

    console = make_console(quiet=config.json_)
    full = None
    for stage in stages:
        base = str(full) if full else config.model
        if base is None and not stage.base:
            base = fresh_model(stage, config.out)
        here = config.model_copy(update={"out": str(Path(config.out) / stage.stage)})
        plan = make_plan(stage, here, model=base, kind=config.kind, prompts=config.prompts)
        outcome = _learn(plan, console)
        full = merge_run(plan, outcome) if config.merge or len(stages) > 1 else None
    if config.json_:
        _print_outcome(outcome, full)
        return
    best = "" if outcome.val_loss is None else f", the best of the run with a validation loss of {outcome.val_loss:.4f}"
    console.print(f"Done. Weights of update {outcome.update}{best}: {outcome.trained}", soft_wrap=True)
    if full:
        console.print(f"Full model: {full}", soft_wrap=True)
        console.print(f"try  vigc generate IMAGES --model {full} --out DATA", soft_wrap=True)


def finetune(config: FinetuneConfig) -> None:
    """Fine-tune a downstream model on question-answer data, generated or not.

    Rejected conversations of a data set are left out. The result is a model folder for transformers and
    `vigc evaluate`.
    """
    from vigc.jobs.train.plan import make_plan
    from vigc.jobs.train.recipes import make_recipes
    from vigc.jobs.train.run import merge_run
    from vigc.model.files.loading import model_type
    from vigc.model.weights.identity import identify
    from vigc.platform.instructions.fields import Choice

    found = model_type(identify(config.model).location)
    if config.recipe is None and found not in DEFAULT_RECIPES:
        raise ConfigError(f"{config.model} is a {found!r} model; only {' and '.join(DEFAULT_RECIPES)} can be tuned.")
    stages = make_recipes(config.recipe or DEFAULT_RECIPES[found], config.options)
    if len(stages) > 1:
        raise ConfigError(f"The recipe {config.recipe} makes a model from nothing; run it with `vigc train`.")
    choice = Choice(config.answers, config.top_k, config.min_score)
    plan = make_plan(stages[0], config, model=config.model, choice=choice)
    console = make_console(quiet=config.json_)
    outcome = _learn(plan, console)
    full = merge_run(plan, outcome) if config.merge else None
    if config.json_:
        _print_outcome(outcome, full)
        return
    console.print(f"Done. Weights of update {outcome.update}: {outcome.trained}", soft_wrap=True)
    if full:
        console.print(f"Tuned model: {full}", soft_wrap=True)
        console.print(f"try  vigc evaluate {full} --benchmark …", soft_wrap=True)


def _learn(plan: TrainPlan, console: Console) -> TrainOutcome:
    """Runs it with its line of progress; Ctrl-C says how to go on."""
    from vigc.jobs.train.run import run_train
    from vigc.jobs.train.terminal import TrainLine

    line = TrainLine(console, plan)
    try:
        with line.shown():
            return run_train(plan, line.report, line.note)
    except KeyboardInterrupt as stop:
        typer.echo("Stopped. The same command goes on from the last checkpoint.", err=True)
        raise typer.Exit(INTERRUPTED) from stop


def _print_outcome(outcome: TrainOutcome, full: Path | None) -> None:
    """As JSON; `full` is the folder of the whole model, where one was written."""
    result = {"out": str(outcome.out), "update": outcome.update, "val_loss": outcome.val_loss}
    print_json(result | {"weights": str(outcome.trained), "model": str(full) if full else None})


TRAIN = Verb(
    TrainConfig,
    train,
    (
        "vigc train --recipe paper_7b --print",
        "vigc train --recipe paper_7b --data detail_23k.json,complex_reasoning_77k.json --images coco --out run",
        "vigc train --recipe lora_7b --data data --model my_model --out run --workers 2 --set parallel=zero2",
        "vigc train --recipe paper_7b --data data --out run --set optimizer.peak=1e-5 --set num_epochs=1 --merge",
    ),
)
FINETUNE = Verb(
    FinetuneConfig,
    finetune,
    (
        "vigc finetune llava-hf/llava-1.5-7b-hf --data data --out tuned",
        "vigc finetune llava-hf/llava-1.5-7b-hf --data llava_instruct_80k.json,data --images coco --out tuned",
        "vigc finetune my_llava --data data --answers vig --out before --set trainable.lora.rank=16",
        "vigc finetune my_vigc --data okvqa.json,question_answer.json --top-k 3 --min-score 20 --out tuned",
    ),
)
