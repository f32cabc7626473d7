"""The verb `bench` at the terminal: the flags of each benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vigc.jobs.terminal import help_end
from vigc.platform.records import ConfigError, Kind

bench = typer.Typer(
    no_args_is_help=True, help="Measure: each benchmark prints a table, and --json FILE keeps its figures."
)


@bench.command(
    "engine",
    epilog=help_end(
        "vigc bench engine --rounds 3 --json figures.json",
        "vigc bench engine --shape frozen        # random weights of a shape that stays",
        "vigc bench engine --shape vicuna-7b     # on a GPU",
    ),
)
def bench_engine(
    shape: Annotated[
        str,
        typer.Option(help="embedded; or with random weights: frozen, vicuna-7b, vicuna-13b."),
    ] = "embedded",
    kind: Annotated[Kind, typer.Option(help="What is talked about.")] = Kind.DETAIL,
    extent: Annotated[
        str,
        typer.Option(
            help="Of a conversation about random weights: loop (as much as the paper's), lean (no answer of VIG's), or "
            "full (all answers whole)."
        ),
    ] = "loop",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    slots: Annotated[int | None, typer.Option(help="Of the engine.", show_default="as memory suggests")] = None,
    threads: Annotated[int | None, typer.Option(help="Of a CPU.", show_default="all cores")] = None,
    num: Annotated[int, typer.Option(min=1, help="Images for the engine.")] = 256,
    num_greedy: Annotated[int, typer.Option(min=1, help="Images for the paper's loop, greedily.")] = 48,
    num_beams: Annotated[int, typer.Option(min=1, help="Images for the paper's loop with 5 beams.")] = 16,
    rounds: Annotated[int, typer.Option(min=1, help="Of all three.")] = 1,
    memory: Annotated[
        int | None,
        typer.Option(min=1000, help="Instead: so many images through the embedded model, and what is held meanwhile."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Of --memory: an SVG of it.")] = None,
    profile: Annotated[
        Path | None,
        typer.Option(metavar="TRACE.json", help="Instead: the engine alone, operator by operator, for Perfetto."),
    ] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Images a second of the engine, beside the paper's loop on the same weights, images and prompts."""
    from vigc.jobs.bench import engine as bench_engine

    if memory is not None:
        bench_engine.memory(num=memory, slots=slots, threads=threads, plot=plot, json_file=json_)
        return
    bench_engine.engine(
        shape=shape,
        kind=kind,
        extent=extent,
        device=device,
        dtype=dtype,
        slots=slots,
        threads=threads,
        num=num,
        num_greedy=num_greedy,
        num_beams=num_beams,
        rounds=rounds,
        profile_file=profile,
        json_file=json_,
    )


@bench.command("train", epilog=help_end("vigc bench train", "vigc bench train --precision bf16 --json figures.json"))
def bench_train(
    rounds: Annotated[int, typer.Option(min=1, help="Of each, alternating.")] = 5,
    updates: Annotated[int, typer.Option(min=1, help="Per round, of 48 texts.")] = 4,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there.")] = None,
) -> None:
    """This training loop beside transformers' Trainer: same model, texts, batches and precision."""
    from vigc.jobs.bench.train import train

    train(rounds=rounds, updates=updates, precision=precision, json_file=json_file)


@bench.command(
    "data",
    epilog=help_end("vigc bench data", "vigc bench data --rows 20000,200000 --json figures.json --plot memory.svg"),
)
def bench_data(
    rows: Annotated[str, typer.Option(metavar="N[,N…]", help="Sizes of the data sets, one after the other.")] = "20000",
    rows_per_block: Annotated[int, typer.Option(min=1, help="Images that are made and committed at once.")] = 128,
    resume_at: Annotated[
        str, typer.Option(metavar="%[,%…]", help="How much is done when a resume is timed.")
    ] = "10,50,90,99",
    without_ray: Annotated[
        bool, typer.Option("--without-ray", help="Only create, write, list and verify; much quicker.")
    ] = False,
    work: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the data go meanwhile.", show_default="temporary")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there.")] = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", metavar="FILE.svg", help="Draw memory over time.")] = None,
) -> None:
    """The data plane with a model that answers at once: rows/s, memory, files, verify, resume."""
    from vigc.jobs.bench.data import data

    data(
        rows=_numbers("--rows", rows, "20000,200000"),
        rows_per_block=rows_per_block,
        resume_at=_numbers("--resume-at", resume_at, "50,90", most=99),
        without_ray=without_ray,
        work=work,
        json_file=json_file,
        plot_file=plot_file,
    )


def _numbers(flag: str, text: str, example: str, most: int | None = None) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{flag} {text}: whole numbers with commas between them, such as {example}.") from error
    if min(numbers) < 1 or (most is not None and max(numbers) > most):
        raise ConfigError(f"{flag} {text}: 1 is the least{f', and {most} the most' if most is not None else ''}.")
    return numbers


@bench.command("pipeline", epilog=help_end("vigc bench pipeline", "vigc bench pipeline --num 100 --json figures.json"))
def bench_pipeline(
    num: Annotated[int, typer.Option(min=1, max=20_000, help="Rendered scenes.")] = 400,
    rounds: Annotated[int, typer.Option(min=1, help="Of each, alternating.")] = 3,
    slots: Annotated[int | None, typer.Option(min=1, help="Of the engine.", show_default="as generate")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the engine.", show_default="as generate")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there.")] = None,
) -> None:
    """The whole pipeline beside the bare engine, on the embedded model: images/s of both and their ratio."""
    from vigc.jobs.bench.pipeline import pipeline_beside_engine

    pipeline_beside_engine(num=num, rounds=rounds, slots=slots, threads=threads, json_file=json_file)


@bench.command("quality", epilog=help_end("vigc bench quality", "vigc bench quality --num 100 --json figures.json"))
def bench_quality(
    num: Annotated[int, typer.Option(min=1, help="Held-out scenes to describe, of each of two sets.")] = 500,
    num_questions: Annotated[int, typer.Option(min=0, help="Scenes to answer gold questions about.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of the scenes.")] = 1,
    labelled: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Sentences labelled with the objects they name: JSON Lines with text, vocabulary, named.",
            show_default="the project's own",
        ),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there.")] = None,
) -> None:
    """How true descriptions are: VIG, VIC and every correction beyond it; how well grounding finds what is untrue."""
    from vigc.jobs.bench.quality import quality

    quality(num=num, num_questions=num_questions, seed=seed, labelled=labelled, json_file=json_file)


@bench.command("serve", epilog=help_end("vigc bench serve", "vigc bench serve --seconds 15 --memory 0"))
def bench_serve(
    clients: Annotated[
        str, typer.Option(metavar="N[,N…]", help="How many ask at once, one number after the other.")
    ] = "1,8,32,128",
    seconds: Annotated[float, typer.Option(min=1, help="For each of these.")] = 60,
    memory: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Then 32 clients for so long, for memory; 0: none.")
    ] = 600,
    kind: Annotated[Kind, typer.Option(help="What is talked about.")] = Kind.DETAIL,
    max_ongoing: Annotated[int, typer.Option(min=1, help="As of vigc serve.")] = 128,
    max_queued: Annotated[int, typer.Option(min=0, help="As of vigc serve.")] = 64,
    replicas: Annotated[str, typer.Option(metavar="N|MIN:MAX|auto", help="As of vigc serve.")] = "auto",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there.")] = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", metavar="FILE.svg", help="Draw memory over time.")] = None,
) -> None:
    """The service under load: requests/s, times to the first sentence and to the end, what is refused, memory."""
    from vigc.jobs.bench.serve import check_levels, serve

    serve(
        clients=check_levels(_numbers("--clients", clients, "1,8,32")),
        seconds=seconds,
        memory_seconds=memory,
        kind=kind,
        max_ongoing=max_ongoing,
        max_queued=max_queued,
        replicas=replicas,
        json_file=json_file,
        plot_file=plot_file,
    )
