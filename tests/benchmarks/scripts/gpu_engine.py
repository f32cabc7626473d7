"""On a GPU: the engine alone on Vicuna-7B's shape, several times in one process, and how busy the GPU was.

PYTHONPATH=. python tests/benchmarks/scripts/gpu_engine.py [--num 640] [--json OUT.json]

The first run compiles kernels and records graphs. Under the profiler, kernels and the gaps between them are counted;
that run is slower than the others.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import profiler
from torch.autograd import DeviceType

from vigc.model.benchmarks.arithmetic import count, matmul_peak
from vigc.model.benchmarks.baselines import by_engine, scripted
from vigc.model.benchmarks.embedded import held_out_scenes
from vigc.model.benchmarks.shapes import SCRIPTS, make_network
from vigc.model.engines.continuous.replicas import continuous_engine
from vigc.model.scenes import render
from vigc.platform.records import Kind

EXTENTS = ("lean", "lean", "lean", "full")
LENGTHS = (20, 100, 500, 2000)  # of gaps, in microseconds


def measure(num: int) -> dict[str, Any]:
    network = make_network("vicuna-7b", "cuda", "bfloat16")
    engine = continuous_engine(network)
    images = [np.asarray(render(scene, network.image_size)) for scene in held_out_scenes(num, seed=5)]
    runs = []
    try:
        for extent in EXTENTS:
            engine.reset_metrics()
            side = by_engine(engine, images, scripted(network, SCRIPTS[Kind.DETAIL], extent))
            runs.append(
                {
                    "extent": extent,
                    "images_per_s": side.images_per_s,
                    "tflop_per_s": count(network, engine.metrics).total / side.seconds / 1e12,
                    "mean_slots": engine.metrics.num_occupied / max(1, engine.metrics.num_steps),
                }
            )
            print({key: round(value, 2) if isinstance(value, float) else value for key, value in runs[-1].items()})
        with profiler.profile(activities=[profiler.ProfilerActivity.CUDA]) as profiled:
            began = time.perf_counter()
            by_engine(engine, images, scripted(network, SCRIPTS[Kind.DETAIL], "lean"))
            torch.cuda.synchronize()
            seconds = time.perf_counter() - began
    finally:
        engine.close()
    return {
        "num_images": num,
        "runs": runs,
        "tflop_per_s_of_large_products": matmul_peak(network.device, network.dtype) / 1e12,
        **_busy(profiled, seconds),
        "device": torch.cuda.get_device_name(),
    }


def _busy(profiled: Any, seconds: float) -> dict[str, Any]:
    """Share of the time in which a kernel ran, milliseconds of the gaps by their length, and of the longest kernels."""
    events = [one for one in profiled.profiler.kineto_results.events() if one.device_type() == DeviceType.CUDA]
    spans = sorted((one.start_ns(), one.start_ns() + one.duration_ns(), one.name()) for one in events)
    gaps, kernels, busy, end = Counter[str](), Counter[str](), 0, spans[0][0]
    for began, ended, name in spans:
        if began > end:
            longer = [length for length in LENGTHS if began - end >= 1e3 * length]
            gaps[f"from {longer[-1] if longer else 0} us"] += began - end
        busy += max(0, ended - max(began, end))
        kernels[name[:80]] += ended - began
        end = max(end, ended)
    return {
        "share_busy": busy / 1e9 / seconds,
        "gaps_ms": {name: total / 1e6 for name, total in sorted(gaps.items())},
        "kernels_ms": {name: total / 1e6 for name, total in kernels.most_common(12)},
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--num", type=int, default=640)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = measure(options.num)
    print(json.dumps({key: value for key, value in found.items() if key != "runs"}, indent=2))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
