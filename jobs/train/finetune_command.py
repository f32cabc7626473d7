"""The verb `finetune` at the terminal: a downstream model learns from the data, as `vigc train` makes the one that
generates them.
"""

from __future__ import annotations

from typing import Annotated

import typer

from vigc.jobs.terminal import Json, help_end, make_console
from vigc.jobs.train.command import learn, make_recipes, print_outcome
from vigc.platform.records import ConfigError
from vigc.platform.tracking import NOT_TRACKED

FINETUNE_EXAMPLES = help_end(
    "vigc finetune llava-hf/llava-1.5-7b-hf --data data --out tuned",
    "vigc finetune llava-hf/llava-1.5-7b-hf --data llava_instruct_80k.json --data data --images coco --out tuned",
    "vigc finetune my_llava --data data --answers vig --out before --set trainable.lora.rank=16",
    "vigc finetune my_vigc --data okvqa.json --data question_answer.json --top-k 3 --min-score 20 --out tuned",
)
DEFAULT_RECIPES = {"llava": "llava_lora", "instructblip": "instructblip_answers"}


def finetune(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A LLaVA-style or an InstructBLIP model: a folder, or a hub id."),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(help="LLaVA's JSON, another file that `vigc train` reads, or an OUT of `vigc generate`. Repeats."),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="The run's folder. The same command again continues there.", show_default=False)
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(help="The folder that image names are below.", show_default="the folder of the JSON file"),
    ] = None,
    validation: Annotated[str | None, typer.Option(help="Held-out data; decides the best checkpoint.")] = None,
    answers: Annotated[str, typer.Option(help="Of an OUT: vic, the corrected answers, or vig, those before.")] = "vic",
    top_k: Annotated[
        int | None,
        typer.Option(min=1, help="Of several weighted answers to a question, the best K.", show_default="all"),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            min=0, help="Leave out questions whose best answer has no higher weight.", show_default="none are left out"
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="See `vigc train --recipe NAME --print`.", show_default="llava_lora or instructblip_answers"),
    ] = None,
    options: Annotated[
        list[str] | None, typer.Option("--set", metavar="OPTION=VALUE", help="Change one value of the recipe.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with a GPU if there are any.")] = 1,
    cpus_per_worker: Annotated[int | None, typer.Option(min=1, help="Cores for each.", show_default="1")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    max_failures: Annotated[int, typer.Option(min=0, help="Lost workers after which the run gives up.")] = 8,
    tracking: Annotated[
        str | None, typer.Option(envvar="MLFLOW_TRACKING_URI", help="An MLflow server to show the run on, or none.")
    ] = None,
    merge: Annotated[bool, typer.Option("--merge/--no-merge", help="Write the whole tuned model to OUT/model.")] = True,
    json_: Json = False,
) -> None:
    """Fine-tune a downstream model on question-answer data, generated or not.

    Rejected conversations of an OUT are left out. The result is a model folder for transformers and `vigc evaluate`.
    """
    if out is None:
        raise ConfigError("--out is missing. Say where the run goes.")
    if answers not in ("vic", "vig"):
        raise ConfigError(f"--answers {answers!r}: use vic or vig.")
    from vigc.jobs.train.plan import make_plan
    from vigc.jobs.train.run import merge_run
    from vigc.model.files.loading import model_type
    from vigc.model.weights.identity import identify
    from vigc.platform.instructions.fields import Choice

    found = model_type(identify(model).location)
    if recipe is None and found not in DEFAULT_RECIPES:
        raise ConfigError(f"{model} is a {found!r} model; only {' and '.join(DEFAULT_RECIPES)} can be tuned.")
    stages = make_recipes(recipe or DEFAULT_RECIPES[found], options or [])
    if len(stages) > 1:
        raise ConfigError(f"The recipe {recipe} makes a model from nothing; run it with `vigc train`.")
    plan = make_plan(
        stages[0],
        out,
        data or [],
        validation=validation,
        images=images,
        model=model,
        num_workers=workers,
        cpus_per_worker=cpus_per_worker,
        device=device,
        max_failures=max_failures,
        tracking=None if tracking == NOT_TRACKED else tracking,
        choice=Choice("vig" if answers == "vig" else "vic", top_k, min_score),
    )
    console = make_console(quiet=json_)
    outcome = learn(plan, console)
    full = merge_run(plan, outcome) if merge else None
    if json_:
        print_outcome(outcome, full)
        return
    console.print(f"Done. Weights of update {outcome.update}: {outcome.trained}", soft_wrap=True)
    if full:
        console.print(f"Tuned model: {full}", soft_wrap=True)
        console.print(f"try  vigc evaluate {full} --benchmark …", soft_wrap=True)
