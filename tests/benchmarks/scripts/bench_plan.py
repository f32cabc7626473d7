"""What a short probe of `vigc plan` foretells beside what a long one measures, on the same images and settings.

python tests/benchmarks/scripts/bench_plan.py [--short 20] [--long 400] [--rounds 3] [--json FILE]

Both clocks run from when the engine is full. A round is a probe and then a long run, so that what else the machine does
falls on both.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from rich.table import Table

from vigc.jobs.bench.common import write_figures
from vigc.jobs.generate.config import GenerateConfig
from vigc.jobs.plan.probe import ProbeResult, probe
from vigc.jobs.scenes import make_scenes
from vigc.jobs.terminal import make_console

SEED = 5  # of the scenes
IMAGES_PER_S = 60  # more than the embedded model makes on any CPU, so that images do not run out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--short", type=float, default=20, metavar="SECONDS", help="length of the probe")
    parser.add_argument("--long", type=float, default=400, metavar="SECONDS", help="length of the run it foretells")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of both, alternating")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    given = parser.parse_args()
    measure(short_s=given.short, long_s=given.long, rounds=given.rounds, json_file=given.json)


def measure(*, short_s: float, long_s: float, rounds: int, json_file: Path | None) -> None:
    """Alternates `rounds` probes of each length over rendered scenes with the embedded model."""
    console = make_console()
    short: list[ProbeResult] = []
    long: list[ProbeResult] = []
    with tempfile.TemporaryDirectory(prefix="vigc-bench-") as folder:
        scenes = Path(folder) / "scenes"
        make_scenes(scenes, num=min(20_000, int(IMAGES_PER_S * long_s)), seed=SEED)
        config = GenerateConfig(images=str(scenes), out=str(Path(folder) / "data"), device="cpu")
        for number in range(1, rounds + 1):
            for made, seconds in ((short, short_s), (long, long_s)):
                console.print(f"round {number} of {rounds}: {seconds:g} s from when the engine is full", style="dim")
                made.append(probe(config, seconds))
    errors = [a.rate.middle / b.rate.middle - 1 for a, b in zip(short, long, strict=True)]
    table = Table("round", f"{short_s:g} s: images/s", f"{long_s:g} s: images/s", "off by", box=None, pad_edge=False)
    for number, (a, b, error) in enumerate(zip(short, long, errors, strict=True), 1):
        foretold = f"{a.rate.middle:.2f} ({a.rate.low:.2f} to {a.rate.high:.2f})"
        table.add_row(str(number), foretold, f"{b.rate.middle:.2f}", f"{error:+.1%}")
    console.print(table)
    middle = statistics.median(abs(error) for error in errors)
    console.print(f"median of {rounds}: off by {middle:.1%}")
    inside = sum(a.rate.low <= b.rate.middle <= a.rate.high for a, b in zip(short, long, strict=True))
    write_figures(
        json_file,
        {
            "off_by_median": middle,
            "off_by": errors,
            "images_per_s_short": [one.rate.middle for one in short],
            "images_per_s_long": [one.rate.middle for one in long],
            "inside_the_range": inside,
            "rounds": rounds,
            "short_s": short_s,
            "long_s": long_s,
        },
    )


if __name__ == "__main__":
    main()
