"""How well a score finds what is wrong, without a threshold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def auroc(pairs: Sequence[tuple[bool, float]]) -> float | None:
    """The chance that what is wrong has a higher score than what is right; ties count half. None: one of both lacks.

    Args:
        pairs: whether it is wrong, and its score.
    """
    wrong = np.array([score for is_wrong, score in pairs if is_wrong])
    right = np.sort([score for is_wrong, score in pairs if not is_wrong])
    if not len(wrong) or not len(right):
        return None
    below, at_most = (np.searchsorted(right, wrong, side=side) for side in ("left", "right"))
    return float((below + at_most).mean() / 2 / len(right))


def average_precision(pairs: Sequence[tuple[bool, float]]) -> float | None:
    """The mean, over all that is wrong, of the precision of taking everything that scores at least as high."""
    if not any(is_wrong for is_wrong, _ in pairs):
        return None
    scores = np.array([score for _, score in pairs])
    wrong = np.array([is_wrong for is_wrong, _ in pairs])
    order = np.argsort(-scores, kind="stable")
    scores, found = scores[order], np.cumsum(wrong[order])
    last = np.searchsorted(-scores, -scores, side="right") - 1  # ties are taken together
    precision = found[last] / (last + 1)
    return float(precision[wrong[order]].mean())
