"""See the package."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from vigc.model.benchmarks.baselines import EXTENTS
from vigc.model.benchmarks.shapes import EMBEDDED, SHAPES
from vigc.model.benchmarks.speed import SpeedSettings, lines, measure, profile
from vigc.platform.records import Kind


def main() -> None:
    has_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(prog="python -m vigc.model.benchmarks", description=__doc__)
    parser.add_argument("--shape", choices=(EMBEDDED, *SHAPES), default=EMBEDDED)
    parser.add_argument("--device", default="cuda" if has_gpu else "cpu")
    parser.add_argument("--dtype", default="bfloat16" if has_gpu else "float32")
    parser.add_argument("--kind", type=Kind, default=Kind.DETAIL)
    parser.add_argument("--slots", type=int)
    parser.add_argument("--num", type=int, default=SpeedSettings.num_images)
    parser.add_argument("--num-greedy", type=int, default=SpeedSettings.num_greedy)
    parser.add_argument("--num-beams", type=int, default=SpeedSettings.num_beams)
    parser.add_argument("--extent", choices=tuple(EXTENTS), default="loop")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--profile", type=Path, metavar="TRACE.json", help="the engine alone, operator by operator")
    given = parser.parse_args()
    settings = SpeedSettings(
        shape=given.shape,
        device=given.device,
        dtype=given.dtype,
        kind=given.kind,
        num_slots=given.slots,
        num_images=given.num,
        num_greedy=given.num_greedy,
        num_beams=given.num_beams,
        extent=given.extent,
        rounds=given.rounds,
    )
    if given.profile:
        print(profile(settings, given.profile))  # noqa: T201
        return
    figures = measure(settings, lambda line: print(line, file=sys.stderr, flush=True))  # noqa: T201
    for name, value in lines(figures):
        print(f"{name:<36}{value}")  # noqa: T201
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
