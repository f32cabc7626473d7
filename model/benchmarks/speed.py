"""All figures of one comparison."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from vigc.model.benchmarks.arithmetic import bandwidth, bytes_per_step, count, least_seconds, matmul_peak
from vigc.model.benchmarks.baselines import BEAMS, HoldConversation, Side, by_engine, by_reference, scripted, spoken
from vigc.model.benchmarks.embedded import held_out_scenes
from vigc.model.benchmarks.shapes import EMBEDDED, FROZEN_SCRIPT, SCRIPTS, make_network
from vigc.model.conversation.policy import make_policy
from vigc.model.engines.continuous.engine import ContinuousEngine
from vigc.model.engines.continuous.replicas import continuous_engine
from vigc.model.engines.metrics import PARTS, EngineMetrics
from vigc.model.network import Network
from vigc.model.prompts import load_pack
from vigc.model.scenes import render
from vigc.platform.records import Kind

# What the authors' settings make of a conversation: five more calls, each to its end.
POLICY = make_policy("paper", max_steps=5, stop_when_done=False, last_step_keeps_all=True, max_tokens=110)
WARM_UP = 8  # images


@dataclass(frozen=True)
class SpeedSettings:
    shape: str = EMBEDDED
    device: str = "cpu"
    dtype: str = "float32"
    kind: Kind = Kind.DETAIL
    num_slots: int | None = None
    num_threads: int | None = None
    num_images: int = 256  # for the engine
    num_greedy: int = 48  # for the paper's loop, greedily
    num_beams: int = 16  # and with beams
    rounds: int = 1
    extent: str = "loop"  # of random weights: see `scripted`


def measure(settings: SpeedSettings, on_progress: Callable[[str], None] = lambda line: None) -> dict[str, float]:
    """Rates, ratios and shares, medians of the rounds; see the keys.

    Each round has a process of its own: the threads that torch leaves behind when an engine ends would slow down the
    paper's loop of the next.
    """
    rounds = []
    for number in range(settings.rounds):
        on_progress(
            f"round {number + 1} of {settings.rounds}: the paper's loop with {BEAMS} beams, greedily, the engine"
        )
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            rounds.append(process.submit(_round, settings).result())
    figures = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    return figures | {"num_images": settings.num_images, "rounds": settings.rounds}


def profile(settings: SpeedSettings, trace: Path) -> str:
    """The engine alone, on an eighth of the images: a table of the operators that took longest.

    Args:
        trace: gets every operator with its time, for chrome://tracing or Perfetto.
    """
    from torch import profiler
    from torch._C._profiler import _ExperimentalConfig

    network = make_network(settings.shape, settings.device, settings.dtype)
    images, hold = _images(network, max(WARM_UP, settings.num_images // 8)), _hold(network, settings)
    engine = continuous_engine(network, num_slots=settings.num_slots, num_threads=settings.num_threads)
    on_gpu = network.device.type == "cuda"
    activities = [profiler.ProfilerActivity.CPU, *([profiler.ProfilerActivity.CUDA] if on_gpu else [])]
    every_thread = _ExperimentalConfig(profile_all_threads=True)  # the engine works in one of its own
    try:
        by_engine(engine, images[:WARM_UP], hold)
        with profiler.profile(activities=activities, experimental_config=every_thread) as profiled:
            by_engine(engine, images, hold)
    finally:
        engine.close()
    profiled.export_chrome_trace(str(trace))
    longest = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    return str(profiled.key_averages().table(sort_by=longest, row_limit=20, max_name_column_width=40))


def _round(settings: SpeedSettings) -> dict[str, float]:
    """Beams, greedy and the engine, one after the other, so that what else the machine does falls on all."""
    network = make_network(settings.shape, settings.device, settings.dtype)
    images, hold = _images(network, settings.num_images), _hold(network, settings)
    beams = by_reference(network, images[: settings.num_beams], hold, BEAMS, settings.num_threads)
    greedy = by_reference(network, images[: settings.num_greedy], hold, 1, settings.num_threads)
    engine = continuous_engine(network, num_slots=settings.num_slots, num_threads=settings.num_threads)
    try:
        by_engine(engine, images[:WARM_UP], hold)
        engine.reset_metrics()
        ours = by_engine(engine, images, hold)
        figures = _figures(network, beams, greedy, ours, engine.metrics)
        return figures | (_exact_shares(engine, images, hold) if isinstance(engine, ContinuousEngine) else {})
    finally:
        engine.close()


def _exact_shares(engine: ContinuousEngine, images: list[np.ndarray], hold: HoldConversation) -> dict[str, float]:
    """Once more, waiting for each part to be done, which a GPU's clock needs; a CPU's is exact without."""
    if engine.network.device.type != "cuda":
        return {}
    engine.reset_metrics()
    metrics = engine.metrics
    metrics.is_exact = True
    seconds = by_engine(engine, images, hold).seconds
    shares = {f"share_{part}": metrics.seconds[part] / seconds for part in PARTS}
    return shares | {"ms_per_step": 1e3 * metrics.seconds["decode"] / max(1, metrics.num_steps)}


def _figures(network: Network, beams: Side, greedy: Side, ours: Side, metrics: EngineMetrics) -> dict[str, float]:
    peak = matmul_peak(network.device, network.dtype)
    work = count(network, metrics)
    slots = metrics.num_occupied / max(1, metrics.num_steps)
    step_bytes, bytes_per_s = bytes_per_step(network, slots, metrics.mean_context), bandwidth(network.device)
    least = least_seconds(work, step_bytes * metrics.num_steps, peak, bytes_per_s)
    parts = {f"share_{part}": metrics.seconds[part] / ours.seconds for part in PARTS}
    return {
        "num_parameters": sum(weight.numel() for weight in network.model.parameters()),
        "images_per_s": ours.images_per_s,
        "images_per_s_reference": beams.images_per_s,
        "images_per_s_greedy_reference": greedy.images_per_s,
        "speedup_over_reference": ours.images_per_s / beams.images_per_s,
        "speedup_over_greedy_reference": ours.images_per_s / greedy.images_per_s,
        "texts_equal": _equal(greedy.texts, ours.texts),
        "tokens_per_s": ours.num_decoded / ours.seconds,
        "tokens_decoded_per_token_kept": ours.num_decoded / ours.num_kept,
        "tokens_decoded_per_token_kept_reference": beams.num_decoded / beams.num_kept,
        "tokens_decoded_per_token_kept_greedy_reference": greedy.num_decoded / greedy.num_kept,
        "mean_slots": slots,
        "gflop_per_image": work.total / ours.num_images / 1e9,
        "gflop_per_s": work.total / ours.seconds / 1e9,
        "matmul_peak_gflop_per_s": peak / 1e9,
        "share_of_peak": work.total / ours.seconds / peak,
        "ms_per_step": 1e3 * metrics.num_replicas * metrics.seconds["decode"] / max(1, metrics.num_steps),
        "mean_context": metrics.mean_context,
        "mb_per_step": step_bytes / 1e6,
        "ms_per_step_at_least": 1e3 * step_bytes / bytes_per_s,
        "gb_per_s": bytes_per_s / 1e9,
        "images_per_s_at_most": ours.num_images / least,
        "share_of_roofline": least / ours.seconds,
        **parts,
    }


def _equal(expected: list[list[str]], found: list[list[str]]) -> float:
    """Share of images of which the same was said; where the loop decoded on, up to where the engine stopped."""
    same = [
        len(a) == len(b) and all(whole.startswith(part) for whole, part in zip(a, b, strict=True))
        for a, b in zip(expected, found, strict=False)
    ]
    return sum(same) / len(same)


def _images(network: Network, num: int) -> list[np.ndarray]:
    size = network.image_size
    return [np.asarray(render(scene, size)) for scene in held_out_scenes(num, seed=5)]


def _hold(network: Network, settings: SpeedSettings) -> HoldConversation:
    if settings.shape == EMBEDDED:
        return spoken(network, load_pack(), POLICY, settings.kind)
    script = FROZEN_SCRIPT if settings.shape == "frozen" else SCRIPTS[settings.kind]
    return scripted(network, script, settings.extent)


def lines(figures: dict[str, float]) -> list[tuple[str, str]]:
    """What is worth printing, each with its meaning."""
    share = {part: figures[f"share_{part}"] for part in PARTS}
    return [
        ("the paper's loop, batch 8, 5 beams", f"{figures['images_per_s_reference']:.2f} images/s"),
        ("the same, greedy", f"{figures['images_per_s_greedy_reference']:.2f} images/s"),
        ("the engine, greedy", f"{figures['images_per_s']:.2f} images/s, {figures['tokens_per_s']:.0f} tokens/s"),
        ("faster than with beams", f"{figures['speedup_over_reference']:.1f} x"),
        ("faster than greedily", f"{figures['speedup_over_greedy_reference']:.1f} x"),
        ("same texts as greedily", f"{figures['texts_equal']:.1%}"),
        (
            "tokens decoded for one kept",
            f"{figures['tokens_decoded_per_token_kept']:.2f}; the loop "
            f"{figures['tokens_decoded_per_token_kept_reference']:.1f} with beams, "
            f"{figures['tokens_decoded_per_token_kept_greedy_reference']:.1f} without",
        ),
        ("slots in use", f"{figures['mean_slots']:.0f}, {figures['ms_per_step']:.2f} ms a step"),
        ("time", ", ".join(f"{part} {value:.0%}" for part, value in share.items())),
        (
            "arithmetic",
            f"{figures['gflop_per_image']:.2f} GFLOP an image, {figures['share_of_peak']:.0%} of this machine's "
            f"{figures['matmul_peak_gflop_per_s']:.0f} GFLOP/s on large products",
        ),
        (
            "roofline",
            f"{figures['images_per_s_at_most']:.1f} images/s at most, {figures['share_of_roofline']:.0%} reached; a "
            f"step reads {figures['mb_per_step']:.0f} MB, {figures['ms_per_step_at_least']:.2f} ms at "
            f"{figures['gb_per_s']:.0f} GB/s",
        ),
    ]
