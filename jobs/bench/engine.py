"""`vigc bench engine`: the engine beside the paper's loop, on the same weights, images and prompts; what it holds."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from vigc.jobs.bench.common import write_figures
from vigc.jobs.bench.memory import MB, MemoryWatch, draw, resident_bytes
from vigc.jobs.terminal import make_console
from vigc.model.benchmarks.speed import SpeedSettings, lines, measure, profile
from vigc.model.files.loading import choose_device
from vigc.platform.records import Kind

if TYPE_CHECKING:
    from vigc.model.engines.base import NetworkEngine

SETTLED_AT = 500  # images, from which on nothing more may be held


def engine(
    *,
    shape: str,
    kind: Kind,
    extent: str,
    device: str,
    dtype: str,
    slots: int | None,
    threads: int | None,
    num: int,
    num_greedy: int,
    num_beams: int,
    rounds: int,
    profile_file: Path | None,
    json_file: Path | None,
) -> None:
    """Rounds of the paper's loop with beams, greedily, and the engine; the medians are printed.

    Args:
        profile_file: gets a trace of the engine alone instead, and its operators are printed.
    """
    console = make_console()
    chosen_device, chosen_dtype = choose_device(device, dtype)
    dtype = str(chosen_dtype).removeprefix("torch.")
    settings = SpeedSettings(
        shape=shape,
        device=str(chosen_device),
        dtype=dtype,
        kind=kind,
        extent=extent,
        num_slots=slots,
        num_threads=threads,
        num_images=num,
        num_greedy=num_greedy,
        num_beams=num_beams,
        rounds=rounds,
    )
    if profile_file is not None:
        console.print(profile(settings, profile_file), soft_wrap=True)
        return
    figures = measure(settings, lambda line: console.print(line, style="dim"))
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in lines(figures):
        table.add_row(name, value)
    console.print(table)
    write_figures(
        json_file,
        figures | {"shape": shape, "kind": str(kind), "extent": extent, "device": str(chosen_device), "dtype": dtype},
    )


def memory(*, num: int, slots: int | None, threads: int | None, plot: Path | None, json_file: Path | None) -> None:
    """Many images through one engine: how much more is held at the end than after the first 500."""
    from vigc.model import embedded
    from vigc.model.engines.continuous.replicas import continuous_engine
    from vigc.model.network import load_network

    console = make_console()
    engine = continuous_engine(load_network(embedded.PATH, device="cpu"), num_slots=slots, num_threads=threads)
    held: list[tuple[int, int]] = []

    def note(done: int) -> None:
        if done % SETTLED_AT == 0:
            held.append((done, resident_bytes(os.getpid()) or 0))
            rate = done / (time.monotonic() - began)
            left = (num - done) / rate
            console.print(f"{done:,} of {num:,} images, {rate:.0f} images/s, {left:.0f} s left", style="dim")

    began = time.monotonic()
    try:
        with MemoryWatch(os.getpid()) as watch:
            asyncio.run(_many(engine, num, note))
    finally:
        engine.close()
    settled, end = held[0][1] / MB, held[-1][1] / MB
    console.print(
        f"{num:,} images: {settled:.0f} MB held after {held[0][0]}, {end:.0f} MB at the end ({end - settled:+.0f} MB)"
    )
    if plot is not None:
        plot.write_text(draw({f"{num:,} images through the engine": watch.samples}), encoding="utf-8")
    write_figures(
        json_file,
        {
            "num_images": num,
            "seconds": time.monotonic() - began,
            "settled_mb": settled,
            "end_mb": end,
            "growth_mb": end - settled,
            "peak_mb": max(one.driver for one in watch.samples) / MB,
        },
    )


async def _many(engine: NetworkEngine, num: int, note: Callable[[int], None]) -> None:
    """Short conversations about rendered scenes, four times as many at once as there are slots."""
    import numpy as np

    from vigc.model.benchmarks.embedded import held_out_scenes
    from vigc.model.conversation.policy import make_policy
    from vigc.model.conversation.vigc import converse
    from vigc.model.prompts import load_pack
    from vigc.model.scenes import render

    pack, policy = load_pack(), make_policy("lean", max_steps=1)
    images = [np.asarray(render(scene, engine.image_size)) for scene in held_out_scenes(256, seed=7)]
    room = asyncio.Semaphore(4 * engine.num_slots)
    done = 0

    async def one(number: int) -> None:
        nonlocal done
        async with engine.image(images[number % len(images)]) as image:
            await converse(lambda request: engine.complete(image, request), pack, Kind.DETAIL, policy)
        done += 1
        note(done)
        room.release()

    async with asyncio.TaskGroup() as group:
        for number in range(num):
            await room.acquire()
            group.create_task(one(number))
