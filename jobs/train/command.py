"""The verb `train` at the terminal."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from vigc.jobs.terminal import INTERRUPTED, Json, help_end, make_console, print_json
from vigc.platform.records import ConfigError, Kind
from vigc.platform.tracking import NOT_TRACKED

if TYPE_CHECKING:
    from rich.console import Console

    from vigc.jobs.train.plan import TrainPlan
    from vigc.jobs.train.run import TrainOutcome
    from vigc.model.training.recipe import Recipe

TRAIN_EXAMPLES = help_end(
    "vigc train --recipe paper_7b --print",
    "vigc train --recipe paper_7b --data detail_23k.json --data complex_reasoning_77k.json --images coco --out run",
    "vigc train --recipe lora_7b --data data --model my_model --out run --workers 2 --set parallel=zero2",
    "vigc train --recipe paper_7b --data data --out run --set optimizer.peak=1e-5 --set num_epochs=1 --merge",
)


def train(
    recipe: Annotated[str, typer.Option(help="Which preset; `--print` shows what it says.")],
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="A JSON file of LLaVA, A-OKVQA, OKVQA, VQAv2 or VIGC, or an OUT of `vigc generate`. May be repeated."
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="The run's folder. The same command again continues there.", show_default=False)
    ] = None,
    validation: Annotated[str | None, typer.Option(help="Held-out data; decides the best checkpoint.")] = None,
    images: Annotated[
        str | None,
        typer.Option(help="The folder that image names are below.", show_default="the folder of the JSON file"),
    ] = None,
    kind: Annotated[str | None, typer.Option(help="Of all records, where files do not say it.")] = None,
    model: Annotated[str | None, typer.Option(help="What to start from.", show_default="the recipe's base")] = None,
    prompts: Annotated[str | None, typer.Option(help="A prompt pack (YAML).", show_default="the project's own")] = None,
    options: Annotated[
        list[str] | None, typer.Option("--set", metavar="OPTION=VALUE", help="Change one value of the recipe.")
    ] = None,
    workers: Annotated[
        str,
        typer.Option(
            metavar="N|N-M",
            help="Processes, each with a GPU if there are any; 2-8: as many as fit.",
        ),
    ] = "1",
    cpus_per_worker: Annotated[
        int | None,
        typer.Option(min=1, help="Cores for each.", show_default="1; all where there is one worker and no GPU"),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    max_failures: Annotated[int, typer.Option(min=0, help="Lost workers after which the run gives up.")] = 8,
    tracking: Annotated[
        str | None, typer.Option(envvar="MLFLOW_TRACKING_URI", help="An MLflow server to show the run on.")
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Also write a full model to OUT/model.")] = False,
    print_: Annotated[bool, typer.Option("--print", help="Show the recipe as it would run, and stop.")] = False,
    json_: Json = False,
) -> None:
    """Fine-tune the Q-Former and the projection (or what the recipe says) on question-answer data.

    Run the same command again to continue after an interruption.
    """
    stages = make_recipes(recipe, options or [])
    if print_:
        shown = [asdict(stage) for stage in stages]
        typer.echo(json.dumps(shown if len(shown) > 1 else shown[0], indent=2))
        return
    if out is None:
        raise ConfigError("--out is missing. Say where the run goes.")
    from vigc.jobs.train.plan import fresh_model, make_plan
    from vigc.jobs.train.run import merge_run

    console = make_console(quiet=json_)
    fewest, most = _range(workers)
    full = None
    for stage in stages:
        base = str(full) if full else model
        if base is None and not stage.base:
            base = fresh_model(stage, out)
        plan = make_plan(
            stage,
            str(Path(out) / stage.stage),
            data or [],
            validation=validation,
            images=images,
            kind=_kind(kind),
            model=base,
            prompts=prompts,
            num_workers=most,
            fewest_workers=fewest,
            cpus_per_worker=cpus_per_worker,
            device=device,
            max_failures=max_failures,
            tracking=None if tracking == NOT_TRACKED else tracking,
        )
        outcome = learn(plan, console)
        full = merge_run(plan, outcome) if merge or len(stages) > 1 else None
    if json_:
        print_outcome(outcome, full)
        return
    best = "" if outcome.val_loss is None else f", the best of the run with a validation loss of {outcome.val_loss:.4f}"
    console.print(f"Done. Weights of update {outcome.update}{best}: {outcome.trained}", soft_wrap=True)
    if full:
        console.print(f"Full model: {full}", soft_wrap=True)
        console.print(f"try  vigc generate IMAGES --model {full} --out DATA", soft_wrap=True)


def make_recipes(name: str, options: list[str]) -> tuple[Recipe, ...]:
    """A preset's stages with values changed, in all of them, or where an option begins with a stage's name in that one.

    Raises:
        ConfigError: no such preset, no such option, or a value of another type.
    """
    from vigc.model.training.recipe import PRESETS

    if name not in PRESETS:
        raise ConfigError(f"There is no recipe {name!r}; use {', '.join(PRESETS)}.")
    stages = PRESETS[name]()
    named = {stage.stage for stage in stages if stage.stage}
    changed = []
    for stage in stages:
        own = [option for option in options if option.partition(".")[0] not in named - {stage.stage}]
        changed.append(_changed(stage, [o.removeprefix(f"{stage.stage}.") if stage.stage else o for o in own]))
    return tuple(changed)


def _changed(preset: Recipe, options: list[str]) -> Recipe:
    from pydantic import TypeAdapter, ValidationError

    from vigc.model.training.recipe import Recipe

    values = asdict(preset)
    for option in options:
        path, equals, text = option.partition("=")
        if not equals:
            raise ConfigError(f"--set {option!r} is not of the form option=value.")
        _put(values, Recipe, path.strip(), text.strip())
    try:
        return TypeAdapter(Recipe).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"--set {'.'.join(map(str, first['loc']))}: {first['msg']}, not {first['input']!r}."
        ) from error


def _put(values: dict[str, Any], owner: Any, path: str, text: str) -> None:
    head, _, rest = path.partition(".")
    known = [f.name for f in fields(owner)]
    if head not in known:
        raise ConfigError(f"--set: there is no option {head!r}; known are {', '.join(known)}.")
    hint = get_type_hints(owner)[head]
    nested = next((h for h in (hint, *getattr(hint, "__args__", ())) if is_dataclass(h)), None)
    if rest:
        if nested is None:
            raise ConfigError(f"--set: {head} has no parts; use {head}=VALUE.")
        values[head] = values[head] if values[head] is not None else asdict(nested())  # type: ignore[operator]
        _put(values[head], nested, rest, text)
    else:
        values[head] = None if text in ("none", "None") else text.split(",") if "tuple" in str(hint) else text


def learn(plan: TrainPlan, console: Console) -> TrainOutcome:
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


def print_outcome(outcome: TrainOutcome, full: Path | None) -> None:
    """As JSON; `full` is the folder of the whole model, where one was written."""
    result = {"out": str(outcome.out), "update": outcome.update, "val_loss": outcome.val_loss}
    print_json(result | {"weights": str(outcome.trained), "model": str(full) if full else None})


def _range(text: str) -> tuple[int, int]:
    fewest, _, most = text.partition("-")
    if not fewest.isdecimal() or not (most or fewest).isdecimal():
        raise ConfigError(f"--workers {text!r}: give a number, as in 4, or the fewest and the most, as in 2-8.")
    return int(fewest), int(most or fewest)


def _kind(name: str | None) -> Kind | None:
    if name is None:
        return None
    if name not in list(Kind):
        raise ConfigError(f"There is no kind {name!r}; use {', '.join(Kind)}.")
    return Kind(name)
