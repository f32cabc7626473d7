"""What came of an experiment: each metric of each benchmark by arm, and how far an arm is from the base data alone.

A metric is scored again from the stored replies, image by image. Its value is the mean over the seeds; intervals
are a bootstrap over images and seeds together, the same draw for both sides of a difference, since all arms answered
the same questions about the same images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vigc.platform.evaluation import benchmark
from vigc.platform.evaluation.folder import existing_pass, read_items, read_replies
from vigc.platform.evaluation.items import Metric
from vigc.platform.quality.chair import Estimate
from vigc.platform.storage import open_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUM_RESAMPLES = 2000
LEVEL = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One metric of one benchmark, of all of it (part "") or of one kind of question."""

    benchmark: str
    measure: str
    part: str
    num: int  # questions or texts of each run
    arms: dict[str, Estimate]
    by_seed: dict[str, list[float]]
    differences: dict[str, Estimate]  # from the base data alone


@dataclass(frozen=True, slots=True)
class Comparison:
    seeds: tuple[int, ...]
    rows: list[ComparisonRow]

    def as_json(self) -> dict[str, Any]:
        return {"seeds": list(self.seeds), "rows": [asdict(row) for row in self.rows]}


def compare(
    runs: Path, arms: Sequence[str], seeds: Sequence[int], benchmarks: Sequence[str], random_seed: int = 0
) -> Comparison:
    """Of finished runs in RUNS/ARM-SEED/evaluation/N-BENCHMARK; the first arm is what others are compared with."""
    rows = []
    for number, name in enumerate(benchmarks):
        metrics = {
            (arm, seed): _metrics(runs / f"{arm}-{seed}" / "evaluation" / f"{number}-{name}")
            for arm in arms
            for seed in seeds
        }
        for key in next(iter(metrics.values())):
            found = {run: of[key] for run, of in metrics.items() if key in of}
            if len(found) == len(metrics):
                rows.append(_row(name, key, found, arms, seeds, random_seed))
    return Comparison(tuple(seeds), rows)


def _metrics(evaluation: Path) -> dict[tuple[str, str], Metric]:
    folder = open_folder(str(evaluation))
    pass_ = existing_pass(folder)
    assert pass_ is not None, evaluation
    rules = benchmark(pass_.request["benchmark"])
    scored = rules.score(read_replies(pass_, read_items(folder)), dict(pass_.request["options"]))
    return {(metric.name, metric.part): metric for metric in scored.metrics}


def _row(
    name: str,
    key: tuple[str, str],
    found: dict[tuple[str, int], Metric],
    arms: Sequence[str],
    seeds: Sequence[int],
    random_seed: int,
) -> ComparisonRow:
    images = sorted({row[0] for metric in found.values() for row in metric.rows})
    # (arms, seeds, images, 2): what stands above and below the line of the ratio.
    sums = np.array([[_sums(found[arm, seed], images) for seed in seeds] for arm in arms])
    by_seed = _ratios(sums.sum(axis=2))
    values = by_seed.mean(axis=1)
    rng = np.random.default_rng(random_seed)
    drawn = np.empty((NUM_RESAMPLES, len(arms)))
    for turn in range(NUM_RESAMPLES):
        weights = np.bincount(rng.integers(0, len(images), len(images)), minlength=len(images))
        chosen = rng.integers(0, len(seeds), len(seeds))
        drawn[turn] = _ratios(np.einsum("asik,i->ask", sums[:, chosen], weights)).mean(axis=1)
    drawn = drawn[~np.isnan(drawn).any(axis=1)]  # a draw with nothing below has no ratio
    first = found[arms[0], seeds[0]]
    return ComparisonRow(
        benchmark=name,
        measure=key[0],
        part=key[1],
        num=len(first.rows),
        arms={arm: _estimate(values[i], drawn[:, i]) for i, arm in enumerate(arms)},
        by_seed={arm: [float(v) for v in by_seed[i]] for i, arm in enumerate(arms)},
        differences={
            arm: _estimate(values[i] - values[0], drawn[:, i] - drawn[:, 0]) for i, arm in enumerate(arms) if i
        },
    )


def _sums(metric: Metric, images: Sequence[str]) -> list[list[float]]:
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for image, above, below in metric.rows:
        sums[image][0] += above
        sums[image][1] += below
    return [sums[image] for image in images]


def _ratios(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    below = sums[..., 1]
    return np.divide(sums[..., 0], below, out=np.full_like(below, np.nan), where=below > 0)


def _estimate(value: float, drawn: NDArray[np.float64]) -> Estimate:
    low, high = np.percentile(drawn, LEVEL)
    return Estimate(float(value), float(low), float(high))
