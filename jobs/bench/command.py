"""The verb `bench` at the terminal: the settings of each benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from vigc.jobs.settings.command import Verb
from vigc.jobs.settings.config import Config
from vigc.platform.records import Kind
from vigc.platform.settings import Counts, flag

Number = Annotated[int, Field(ge=1)]


class BenchConfig(Config):
    """The settings of a benchmark, which prints a table."""

    out: Path | None = flag("Also write the figures to this file, as JSON.", None, metavar="FILE.json")


class EngineBench(BenchConfig):
    """The settings of `vigc bench engine`."""

    shape: str = flag(
        "The model: embedded, or random weights of the shape frozen, vicuna-7b or vicuna-13b.", "embedded"
    )
    kind: Kind = flag("The kind of conversation.", Kind.DETAIL, metavar="KIND")
    extent: Literal["loop", "lean", "full"] = flag(
        "How much random weights say: as much as the paper's (loop), no answer of VIG's (lean), all answers whole "
        "(full).",
        "loop",
    )
    device: str = flag("The device of the model: auto, cpu or cuda.", "auto")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = flag("The precision of the model.", "auto")
    slots: int | None = flag("Conversations that the engine decodes at once.", None, shown="as memory suggests")
    threads: int | None = flag("CPU threads of the engine.", None, shown="all cores")
    num: int = flag("How many images the engine gets.", 256, ge=1)
    num_greedy: int = flag("How many images the paper's loop gets greedily.", 48, ge=1)
    num_beams: int = flag("How many images the paper's loop gets with 5 beams.", 16, ge=1)
    rounds: int = flag("Repetitions of all three measurements.", 1, ge=1)
    memory: int | None = flag(
        "Send so many images through the embedded model, and measure what is held meanwhile instead.", None, ge=1000
    )
    plot: Path | None = flag("Draw what --memory measures.", None, metavar="FILE.svg")
    profile: Path | None = flag(
        "Write what the engine alone does, operator by operator, for Perfetto instead.", None, metavar="TRACE.json"
    )


class DataBench(BenchConfig):
    """The settings of `vigc bench data`."""

    rows: tuple[Number, ...] = flag("The sizes of the data sets, one after the other.", (20_000,), metavar="N,…")
    rows_per_block: int = flag("Images that are made and committed at once.", 128, ge=1)
    resume_at: tuple[Annotated[int, Field(ge=1, le=99)], ...] = flag(
        "How much is done, in percent, when a resume is timed.", (10, 50, 90, 99), metavar="%,…"
    )
    without_ray: bool = flag("Only create, write, list and verify; much quicker.", False)
    work: Path | None = flag("The folder where the data go meanwhile.", None, metavar="FOLDER", shown="temporary")
    plot: Path | None = flag("Draw memory over time.", None, metavar="FILE.svg")


class PipelineBench(BenchConfig):
    """The settings of `vigc bench pipeline`."""

    num: int = flag("How many scenes are rendered.", 400, ge=1, le=20_000)
    rounds: int = flag("Repetitions of each side, alternating.", 3, ge=1)
    slots: int | None = flag("Conversations that the engine decodes at once.", None, ge=1, shown="as generate")
    threads: int | None = flag("CPU threads of the engine.", None, ge=1, shown="as generate")


class EndpointBench(BenchConfig):
    """The settings of `vigc bench endpoint`."""

    images: str = flag("A folder of images, or any other source of `vigc generate`.", positional=True, metavar="IMAGES")
    model: str = flag("The address of the endpoint, such as http://localhost:8000/v1.")
    endpoint_model: str | None = flag("The name of the model at the endpoint.", None, shown="the only one it lists")
    api_key_env: str | None = flag(
        "The environment variable that holds the endpoint's key.", None, metavar="NAME", shown="no key is sent"
    )
    num: int = flag("How many images each side gets.", 512, ge=1)
    under_way: tuple[Number, ...] = flag(
        "How many conversations are under way, one number after the other.", (8, 64, 256), metavar="N,…"
    )
    rounds: int = flag("Repetitions of each side, alternating.", 3, ge=1)


class ServeBench(BenchConfig):
    """The settings of `vigc bench serve`."""

    clients: tuple[Number, ...] = flag("How many ask at once, one number after the other.", (1, 8, 32, 128))
    seconds: float = flag("How long each number of clients asks.", 60, ge=1)
    memory: float = flag("How long 32 clients ask afterwards, for memory; 0: not.", 600, ge=0, metavar="SECONDS")
    kind: Kind = flag("The kind of conversation.", Kind.DETAIL, metavar="KIND")
    max_ongoing: int = flag("Requests that a replica works on at once.", 128, ge=1)
    max_queued: int = flag("Requests that wait for a replica.", 64, ge=0)
    replicas: Counts | None = flag("Processes that each hold the model.", None, shown="as serve")
    plot: Path | None = flag("Draw memory over time.", None, metavar="FILE.svg")


def engine(config: EngineBench) -> None:
    """Images a second of the engine, beside the paper's loop on the same weights, images and prompts."""
    from vigc.jobs.bench.engine import engine, memory

    if config.memory is not None:
        memory(num=config.memory, slots=config.slots, threads=config.threads, plot=config.plot, json_file=config.out)
        return
    others = config.model_dump(exclude={"out", "memory", "plot", "profile"})
    engine(profile_file=config.profile, json_file=config.out, **others)


def data(config: DataBench) -> None:
    """The data plane with a model that answers at once: rows/s, memory, files, verify, resume."""
    from vigc.jobs.bench.data import data

    others = config.model_dump(exclude={"out", "plot"})
    data(plot_file=config.plot, json_file=config.out, **others)


def pipeline(config: PipelineBench) -> None:
    """The whole pipeline beside the bare engine, on the embedded model: images/s of both and their ratio."""
    from vigc.jobs.bench.pipeline import pipeline_beside_engine

    pipeline_beside_engine(json_file=config.out, **config.model_dump(exclude={"out"}))


def endpoint(config: EndpointBench) -> None:
    """`vigc generate` with a model behind an endpoint, beside a bare client of the same server."""
    from vigc.jobs.bench.endpoint import generate_beside_client

    generate_beside_client(json_file=config.out, **config.model_dump(exclude={"out"}))


def serve(config: ServeBench) -> None:
    """The service under load: requests/s, times to the first sentence and to the end, what is refused, memory."""
    from vigc.jobs.bench.serve import serve

    others = config.model_dump(exclude={"out", "plot", "memory"})
    serve(memory_seconds=config.memory, plot_file=config.plot, json_file=config.out, **others)


BENCH = (
    Verb(
        EngineBench,
        engine,
        (
            "vigc bench engine --rounds 3 --out figures.json",
            "vigc bench engine --shape frozen        # random weights of a shape that stays",
            "vigc bench engine --shape vicuna-7b     # on a GPU",
        ),
    ),
    Verb(
        DataBench,
        data,
        ("vigc bench data", "vigc bench data --rows 20000,200000 --out figures.json --plot memory.svg"),
    ),
    Verb(PipelineBench, pipeline, ("vigc bench pipeline", "vigc bench pipeline --num 100 --out figures.json")),
    Verb(
        EndpointBench,
        endpoint,
        ("vigc bench endpoint photos --model http://localhost:8000/v1 --under-way 8,64 --out figures.json",),
    ),
    Verb(ServeBench, serve, ("vigc bench serve", "vigc bench serve --seconds 15 --memory 0")),
)
