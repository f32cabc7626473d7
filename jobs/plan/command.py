"""The verb `plan` at the terminal: what `vigc generate` with these flags will take, before it is begun."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vigc.jobs.settings.command import Verb, add_verb
from vigc.jobs.settings.shared import PrintsJson
from vigc.jobs.terminal import make_console, print_json
from vigc.platform.records import ConfigError
from vigc.platform.settings import Rates, flag

if TYPE_CHECKING:
    from rich.console import Console

    from vigc.jobs.generate.config import GenerateConfig
    from vigc.platform.planning import Gpu, MachinePlan, Prices, Rate, TokenPrice


class PlanConfig(PrintsJson):
    """The settings of `vigc plan`."""

    command: tuple[str, ...] = flag(
        "The command that is planned, with its flags.", (), positional=True, metavar="generate ...", split=False
    )
    probe_seconds: float = flag("How long the model is tried on the images, from when the engine is full.", 120, ge=1)
    images_per_s: Rates | None = flag("The rate of one GPU, instead of a probe.", None, metavar="RATE|LOW:HIGH")
    images: int | None = flag("How many images there are.", None, ge=1, shown="those of the command")
    gpu: str | None = flag("The GPU that the rate is of, as the prices call it.", None, shown="this one")
    machine: tuple[str, ...] = flag("Consider only these types of machines.", (), shown="all of the prices")
    machines: int = flag("How many machines of each type there are, where there is no deadline.", 1, ge=1)
    deadline: str | None = flag("Name the cheapest cluster that is done by then.", None, metavar="24h|90m|3d")
    prices: Path | None = flag("A table of what machines cost.", None, metavar="FILE.yaml", shown="the shipped table")


def plan(config: PlanConfig) -> None:
    """Say what a run will take: images/s, GPU-hours, time, money, bytes, and the cheapest cluster for a deadline."""
    from vigc.platform.planning import BYTES_PER_CONVERSATION, Rate, cheapest, load_prices

    table = load_prices(config.prices)
    hours = None if config.deadline is None else _hours(config.deadline)
    run = _planned(config.command)
    console = make_console(quiet=config.json_)
    gpus_per_actor: float | None = None
    failed: float | None = None
    endpoint: str | None = None
    tokens: tuple[float, float] | None = None
    price: TokenPrice | None = None
    if config.images_per_s is not None:
        low, high = config.images_per_s
        rate = Rate((low + high) / 2, low, high)
        num_kinds = len(run.kinds) if run else 3
        bytes_per_image: float = BYTES_PER_CONVERSATION * num_kinds
        measured = "given"
    elif run is None:
        raise ConfigError(
            "Name the command to plan, like `vigc plan generate IMAGES --out OUT`, or give --images-per-s."
        )
    else:
        from vigc.jobs.generate.terminal import ProgressLine
        from vigc.jobs.plan.probe import probe

        line = ProgressLine(console)
        with line.shown():
            probed = probe(run, config.probe_seconds, on_progress=line.report)
        gpus_per_actor, failed = probed.plan.hardware.gpus, probed.failed
        tokens, price = probed.tokens, probed.plan.prices.tokens
        if (settings := probed.plan.engine.endpoint) is not None and probed.plan.engine.engine == "endpoint":
            endpoint = settings.url
        rate = probed.rate.times(1 / gpus_per_actor, 1 / gpus_per_actor) if gpus_per_actor else probed.rate
        bytes_per_image = probed.bytes_per_image
        measured = f"probed on {probed.num_images} images in {probed.seconds:.0f} s"
    num_images = config.images or _count(run)
    on_gpu = _gpu(config.gpu, table, here=config.images_per_s is None and bool(gpus_per_actor))
    shapes = _shapes(num_images, rate, on_gpu, table, config.machine, config.machines, hours) if on_gpu else []
    best = cheapest(shapes) if hours is not None else None
    answer: dict[str, Any] = {
        "num_images": num_images,
        "images_per_s": {"middle": rate.middle, "low": rate.low, "high": rate.high, "how": measured},
        "gpu": on_gpu.name if on_gpu else None,
        "endpoint": endpoint,
        "tokens": None if tokens is None else [num_images * each for each in tokens],
        "tokens_cost": None if tokens is None or price is None else num_images * price.of_mean(*tokens),
        "hours_of_one": [num_images / rate.middle / 3600, num_images / rate.low / 3600],
        "output_bytes": num_images * bytes_per_image,
        "failed": failed,
        "prices_checked": table.checked.isoformat(),
        "currency": table.currency,
        "shapes": [_as_json(shape) for shape in shapes],
        "deadline_hours": hours,
        "cheapest": _as_json(best) if best else None,
    }
    if config.json_:
        print_json(answer)
        return
    _say(console, answer, rate, shapes, table)
    _say_deadline(console, best, config.deadline, table, has_gpu=on_gpu is not None, is_endpoint=endpoint is not None)


PLAN = Verb(
    PlanConfig,
    plan,
    (
        "vigc plan generate s3://bucket/photos --out s3://bucket/data --model my_model",
        "vigc plan --deadline 24h --machine p4d.24xlarge,p5.48xlarge generate photos --out data",
        "vigc plan --images 1820000 --images-per-s 9.1 --gpu a100-80 --deadline 12h",
        "vigc plan --images 1820000 --images-per-s 8.5:9.6 --gpu a100-80 --prices my_prices.yaml --json",
    ),
    interspersed=False,
)


def _planned(words: Sequence[str]) -> GenerateConfig | None:
    """The settings of the command that is planned, read as that command reads them."""
    if not words:
        return None
    if words[0] != "generate":
        raise ConfigError(f"{words[0]!r} cannot be planned, only generate. The flags of plan come before it.")
    from vigc.jobs.generate.command import GENERATE

    reader = typer.Typer(add_completion=False)
    add_verb(reader, GENERATE)
    command: Any = typer.main.get_command(reader)
    return GENERATE.config_of(command.make_context("vigc plan generate", list(words[1:])))


def _count(config: GenerateConfig | None) -> int:
    if config is None:
        raise ConfigError("--images is missing. Say how many there are, or name the command to plan.")
    from vigc.jobs.ingest.run import open_chosen
    from vigc.jobs.plan.probe import num_images_of

    return num_images_of(open_chosen(config.images, config))


def _hours(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([mhd])", text)
    if found is None or not float(found[1]):
        raise ConfigError(f"--deadline {text}: give a number of minutes, hours or days, as in 90m, 24h or 3d.")
    return float(found[1]) * {"m": 1 / 60, "h": 1, "d": 24}[found[2]]


def _gpu(name: str | None, table: Prices, *, here: bool) -> Gpu | None:
    """The GPU that the rate is of; None where it is of a machine without any."""
    found = name or (gpu_here() if here else None)
    if found is None and not here:
        return None
    if found is None or found not in table.gpus:
        raise ConfigError(f"--gpu {found or 'is missing'}: the prices know {', '.join(table.gpus)}.")
    return table.gpus[found]


def gpu_here() -> str | None:
    """What the shipped prices call this machine's first GPU."""
    if not (tool := shutil.which("nvidia-smi")):
        return None
    said = subprocess.run(
        [tool, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"], capture_output=True, text=True
    )
    return gpu_named(said.stdout.partition("\n")[0])


def gpu_named(line: str) -> str | None:
    """
    Args:
        line: of nvidia-smi, like "NVIDIA A100-SXM4-80GB, 81920".
    """
    found = re.search(r"\b(A100|H100|H200|L40S|L4|A10G)\b", line.upper())
    if found is None:
        return None
    if found[1] != "A100":
        return found[1].lower()
    return "a100-80" if int(line.rpartition(",")[2]) > 50_000 else "a100-40"


def _shapes(
    num_images: int,
    rate: Rate,
    on_gpu: Gpu,
    table: Prices,
    names: Sequence[str],
    num_machines: int,
    deadline_hours: float | None,
) -> list[MachinePlan]:
    from vigc.platform.planning import carried_over, for_deadline, shape_of

    known = {each.name: each for each in table.machines}
    wanted = list(names or known)
    if unknown := [name for name in wanted if name not in known]:
        raise ConfigError(f"--machine {unknown[0]}: the prices know {', '.join(known)}.")
    shapes = []
    for name in wanted:
        there = carried_over(rate, on_gpu, known[name].gpu)
        if deadline_hours is None:
            shapes.append(shape_of(num_images, there, known[name], num_machines, table.startup_minutes))
        elif shape := for_deadline(num_images, there, known[name], deadline_hours, table.startup_minutes):
            shapes.append(shape)
    return shapes


def _as_json(shape: MachinePlan) -> dict[str, Any]:
    return {
        "machine": shape.machine.name,
        "num_machines": shape.num_machines,
        "gpus": shape.num_machines * shape.machine.gpus,
        "gpu_hours": list(shape.gpu_hours),
        "hours": list(shape.hours),
        "money": list(shape.money),
    }


def _say(console: Console, answer: dict[str, Any], rate: Rate, shapes: list[MachinePlan], table: Prices) -> None:
    from rich.table import Table

    of_what = "of this machine's CPUs"
    if answer["gpu"] or answer["endpoint"]:
        of_what = f"of one {answer['gpu']}" if answer["gpu"] else f"from {answer['endpoint']}"
    one = answer["hours_of_one"]
    console.print(f"images     {answer['num_images']:,}")
    console.print(
        f"rate       {rate.middle:.3g} images/s {of_what}, {answer['images_per_s']['how']}; "
        f"between {rate.low:.3g} and {rate.high:.3g}",
        soft_wrap=True,
    )
    console.print(f"{'GPU-hours' if answer['gpu'] else 'time     '}  {_between(*one)}{'' if answer['gpu'] else ' h'}")
    console.print(f"output     {_size(answer['output_bytes'])}")
    if answer["tokens"]:
        read, written = answer["tokens"]
        console.print(f"tokens     {_millions(read)} read, {_millions(written)} written, as the server counts")
        cost = answer["tokens_cost"]
        of_unknown = "not known: give --token-price IN,OUT, or --prices FILE with the model, behind `generate`"
        console.print(f"cost       {of_unknown if cost is None else f'{cost:,.2f} {table.currency}'}", soft_wrap=True)
    if answer["failed"]:
        console.print(f"failed     {answer['failed']:.1%} of the images of the probe")
    if not shapes:
        return
    rows = Table("machines", "GPUs", "GPU-hours", "hours", table.currency, box=None, pad_edge=False)
    for shape in sorted(shapes, key=lambda one: one.money[1]):
        mark = "" if shape.machine.gpu.name == answer["gpu"] else " *"
        rows.add_row(
            f"{shape.num_machines} × {shape.machine.name}{mark}",
            f"{shape.num_machines * shape.machine.gpus} × {shape.machine.gpu.name}",
            _between(*shape.gpu_hours),
            _between(*shape.hours),
            _between(*shape.money),
        )
    console.print()
    console.print(rows)
    console.print(
        f"Of two figures the first is the likeliest, the second the slow end. Each machine starts for "
        f"{table.startup_minutes:g} minutes. * Not measured on this GPU, but carried over by data sheets. "
        f"Prices as of {table.checked}: check them.",
        soft_wrap=True,
    )


def _say_deadline(
    console: Console,
    best: MachinePlan | None,
    deadline: str | None,
    table: Prices,
    *,
    has_gpu: bool,
    is_endpoint: bool,
) -> None:
    if deadline is None:
        return
    if best is not None:
        console.print(
            f"Cheapest within {deadline}: {best.num_machines} × {best.machine.name}, "
            f"{_between(*best.hours)} hours, {_between(*best.money)} {table.currency}.",
            soft_wrap=True,
        )
    elif is_endpoint:
        console.print("How long it takes is up to the server; --deadline chooses among machines.", soft_wrap=True)
    elif has_gpu:
        console.print(f"No machine is done within {deadline}: it takes {table.startup_minutes:g} minutes to start.")
    else:
        console.print(
            "The rate is of CPUs, and prices are of GPUs: give --images-per-s and --gpu for those.", soft_wrap=True
        )


def _between(likeliest: float, slow: float) -> str:
    def short(value: float) -> str:
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

    return short(likeliest) if short(likeliest) == short(slow) else f"{short(likeliest)} to {short(slow)}"


def _millions(number: float) -> str:
    return f"{number / 1e6:.3g} million" if number >= 1e6 else f"{number:,.0f}"


def _size(num_bytes: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes / 1e3:.3g} kB"
