"""`vigc bench serve`: the service under load, over real HTTP with images: rates, times, refusals, memory.

The service is a process of its own, started as a user starts it; its clients share this machine's cores. Each client
asks again as soon as it is answered, and reads the answer as a stream.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from vigc.jobs.bench.common import write_figures
from vigc.jobs.bench.memory import MemoryWatch, draw, growth
from vigc.jobs.serve.config import ServeConfig
from vigc.jobs.serve.run import make_settings
from vigc.jobs.terminal import make_console
from vigc.platform.records import ConfigError, Kind, RunError

NUM_IMAGES, IMAGE_SIDE = 64, 320
START_S, STOP_S, ANSWER_S = 120.0, 60.0, 300.0
BEYOND = 1.5  # times the limit are asked at once, to see what is refused
BEYOND_S = 15.0
NUM_LONG = 32  # clients while memory is watched
GROWN_FROM = 0.2  # of that time
LEAD = 0.1  # of a level's time, but MAX_LEAD_S at the most: nobody has been answered yet, and nothing counts
MAX_LEAD_S = 5.0


@dataclass
class Level:
    """What so many clients got."""

    num_clients: int
    seconds: float
    began: float = 0.0  # by time.monotonic
    first_s: list[float] = field(default_factory=list)  # of each answer, to its first sentence
    end_s: list[float] = field(default_factory=list)  # and to its end
    num_in_time: int = 0  # of those answers, while the clock ran
    refused: int = 0  # with status 503, Retry-After and the form of the API
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        return self.num_in_time / self.seconds

    def figures(self) -> dict[str, float]:
        n = self.num_clients
        made: dict[str, float] = {f"requests_per_s_{n}": self.rate}
        for name, values in (("first_p", self.first_s), ("p", self.end_s)):
            for share in (50, 95, 99):
                made[f"{name}{share}_s_{n}"] = float(np.percentile(values, share)) if values else float("nan")
        return made | {f"refused_{n}": self.refused, f"errors_{n}": sum(self.errors.values())}


def serve(
    *,
    clients: Sequence[int],
    seconds: float,
    memory_seconds: float,
    kind: Kind,
    max_ongoing: int,
    max_queued: int,
    replicas: tuple[int, int] | None,
    json_file: Path | None,
    plot_file: Path | None,
) -> None:
    """
    Args:
        clients: how many ask at once, one number after the other.
        seconds: for each of these.
        memory_seconds: NUM_LONG clients go on for so long, and the service's memory is watched.
    """
    console = make_console()
    check_levels(clients)
    config = ServeConfig(max_ongoing=max_ongoing, max_queued=max_queued, replicas=replicas)
    num_replicas = make_settings(config)[0].replica_range[1]
    flags: dict[str, object] = {"max_ongoing": max_ongoing, "max_queued": max_queued}
    flags |= {} if replicas is None else {"replicas": "{}:{}".format(*replicas)}
    limit = num_replicas * max_ongoing + max_queued
    with _service(console, flags) as (url, pid), MemoryWatch(pid) as watch:
        load = _Load(url, kind)
        asyncio.run(load.level(4, 3.0))  # warms up
        levels = []
        for num in clients:
            console.print(f"{num} clients for {seconds:g} s", style="dim")
            levels.append(asyncio.run(load.level(num, seconds)))
        beyond = round(limit * BEYOND)
        console.print(f"{beyond} clients, beyond the limit of {limit}, for {BEYOND_S:g} s", style="dim")
        over = asyncio.run(load.level(beyond, BEYOND_S))
        began = time.monotonic()
        if memory_seconds:
            console.print(f"{NUM_LONG} clients for {memory_seconds:g} s, for memory", style="dim")
            asyncio.run(load.level(NUM_LONG, memory_seconds))
        ended = time.monotonic()
    figures: dict[str, float | str] = {
        "kind": str(kind),
        "seconds": seconds,
        "replicas": num_replicas,
        "queue_limit": limit,
    }
    for level in levels:
        figures |= level.figures()
    figures |= _ratios(levels, limit)
    figures |= {
        "clients_beyond": beyond,
        "answered_beyond": len(over.end_s),
        "refused_beyond": over.refused,
        "errors_beyond": sum(over.errors.values()),
    }
    _print(console, [*levels, over])
    if memory_seconds:
        grown = growth(watch.samples, began, ended, GROWN_FROM)
        figures |= {"memory_seconds": memory_seconds, **grown}
        console.print(
            f"memory over {memory_seconds:g} s: largest worker {grown['worker_peak_mb']:.0f} MB, "
            f"{grown['worker_growth_mb']:+.1f} MB since a fifth of it"
        )
        if plot_file is not None:
            during = [one for one in watch.samples if began <= one.at <= ended]
            plot_file.write_text(draw({f"{NUM_LONG} clients": during}), encoding="utf-8")
    for what, number in sum((level.errors for level in (*levels, over)), Counter[str]()).items():
        console.print(f"{number} times: {what}", style="red")
    write_figures(json_file, figures)


def _ratios(levels: list[Level], limit: int) -> dict[str, float]:
    rates = {level.num_clients: level.rate for level in levels}
    below = [level for level in levels if level.num_clients <= limit]
    made: dict[str, float] = {
        "errors_below_limit": sum(sum(level.errors.values()) + level.refused for level in below),
    }
    if rates.get(1) and 32 in rates:
        made["speedup_32_clients"] = rates[32] / rates[1]
    return made


def _print(console: Console, levels: list[Level]) -> None:
    table = Table(
        "clients", "requests/s", "first sentence p50, p95, p99 (s)", "end p50, p95, p99 (s)", "503", "errors", box=None
    )
    for level in levels:
        figures, n = level.figures(), level.num_clients
        first, end = (
            "  ".join(f"{figures[f'{name}{share}_s_{n}']:.2f}" for share in (50, 95, 99)) for name in ("first_p", "p")
        )
        table.add_row(str(n), f"{level.rate:.2f}", first, end, str(level.refused), str(sum(level.errors.values())))
    console.print(table)
    rates = {level.num_clients: level.rate for level in levels}
    if rates.get(1) and 32 in rates:
        console.print(f"32 clients get {rates[32] / rates[1]:.2f} times the requests/s of one")


@contextmanager
def _service(console: Console, flags: Mapping[str, object]) -> Iterator[tuple[str, int]]:
    """`vigc serve` with the embedded model: its address and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    console.print("starting the service", style="dim")
    options = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "vigc.jobs.cli", "serve", "--json", f"--port={port}", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=os.environ | {"VIGC_API_KEYS": ""},
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        said = ""
        while not said.rstrip().endswith("}"):
            line = process.stdout.readline()
            if not line:
                raise RunError(f"The service did not start: {process.stderr.read().strip()}")
            said += line
        yield json.loads(said)["url"], process.pid
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()


class _Load:
    """Clients with images of scenes that the model has not seen."""

    def __init__(self, url: str, kind: Kind) -> None:
        from vigc.model.benchmarks.embedded import held_out_scenes
        from vigc.model.scenes import render

        self._url, self._kind = url, kind
        self._images = []
        for scene in held_out_scenes(NUM_IMAGES, seed=9):
            file = io.BytesIO()
            render(scene, IMAGE_SIDE).save(file, "JPEG", quality=90)
            self._images.append(file.getvalue())

    async def level(self, num_clients: int, seconds: float) -> Level:
        import aiohttp

        level = Level(num_clients, seconds)
        level.began = time.monotonic() + min(MAX_LEAD_S, LEAD * seconds)
        end_at = level.began + seconds
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
            await asyncio.gather(*(self._client(session, level, number, end_at) for number in range(num_clients)))
        return level

    async def _client(self, session: Any, level: Level, number: int, end_at: float) -> None:
        import aiohttp

        while time.monotonic() < end_at:
            number += level.num_clients
            try:
                pause_s = await self._ask(session, level, self._images[number % NUM_IMAGES], end_at)
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                level.errors[f"{type(error).__name__}: {error}"] += 1
                pause_s = 1.0
            if pause_s:
                await asyncio.sleep(min(pause_s, max(0.0, end_at - time.monotonic())))

    async def _ask(self, session: Any, level: Level, image: bytes, end_at: float) -> float:
        """One request; says how long to wait before the next."""
        import aiohttp

        form = aiohttp.FormData({"kinds": str(self._kind), "stream": "true"})
        form.add_field("image", image, filename="scene.jpg", content_type="image/jpeg")
        began, first_s, last = time.monotonic(), None, ""
        async with session.post(f"{self._url}/v1/vigc", data=form) as answer:
            if answer.status == 503:
                is_clean = (await answer.json())["error"]["code"] == "overloaded" and "Retry-After" in answer.headers
                if is_clean:
                    level.refused += 1
                    return float(answer.headers["Retry-After"])
            if answer.status != 200:
                level.errors[f"status {answer.status}: {(await answer.text())[:200]}"] += 1
                return 1.0
            async for line in answer.content:
                if line.startswith(b"event: "):
                    last = line[7:].decode().strip()
                    if last == "step" and first_s is None:
                        first_s = time.monotonic() - began
        ended = time.monotonic()
        if last != "row" or first_s is None:
            level.errors[f"a stream that ends with {last or 'nothing'}"] += 1
            return 0.0
        level.first_s.append(first_s)
        level.end_s.append(ended - began)
        level.num_in_time += level.began <= ended <= end_at
        return 0.0


def check_levels(clients: Sequence[int]) -> None:
    """
    Raises:
        ConfigError: more clients than this process may have connections.
    """
    import resource

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200
    if max(clients) > most:
        raise ConfigError(f"--clients: this machine allows {most} connections; see `ulimit -n`.")
