"""Metrics with 95 % intervals: the percentile bootstrap over images.

Questions about the same image succeed and fail together, so images are drawn, not questions. A metric is a ratio of
sums, which covers accuracies, precision, F1 and relative scores alike. Where every question is right the interval
collapses to nothing: read the number of questions with it.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from vigc.platform.evaluation.items import Metric, Scored

NUM_RESAMPLES = 1000
_LEVEL = (2.5, 97.5)


def estimate(metric: Metric, seed: int = 0, num_resamples: int = NUM_RESAMPLES) -> dict[str, float] | None:
    """`value`, `low`, `high`, and `num`, how many rows it is over; None where there is nothing to divide by."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for image, above, below in metric.rows:
        sums[image][0] += above
        sums[image][1] += below
    table = np.array([sums[image] for image in sorted(sums)], dtype=np.float64).reshape(-1, 2)
    above, below = table.sum(axis=0)
    if not below:
        return None
    random = np.random.default_rng(seed)
    ratios = []
    for _ in range(num_resamples):
        weights = np.bincount(random.integers(0, len(table), len(table)), minlength=len(table))
        up, down = weights @ table
        if down > 0:  # a resample with nothing below has no ratio
            ratios.append(up / down)
    low, high = np.percentile(ratios, _LEVEL)
    return {"value": float(above / below), "low": float(low), "high": float(high), "num": len(metric.rows)}


def as_scores(scored: Scored, seed: int = 0) -> dict[str, Any]:
    """`scores`, `parts`, `counts`, `notes` as they stand in scores.json."""
    scores: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {}
    for metric in scored.metrics:
        target = parts.setdefault(metric.part, {}) if metric.part else scores
        target[metric.name] = estimate(metric, seed)
    return {"scores": scores, "parts": parts, "counts": scored.counts, "notes": scored.notes}
