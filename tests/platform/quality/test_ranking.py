"""AUROC and average precision, worked out by hand."""

import pytest

from vigc.platform.quality.ranking import auroc, average_precision


@pytest.mark.parametrize(
    ("wrong", "right", "area", "precision"),
    [
        ([3.0, 2.0], [1.0, 0.0], 1.0, 1.0),
        ([0.0], [1.0, 2.0], 0.0, 1 / 3),
        ([1.0], [1.0], 0.5, 1 / 2),
        ([3.0, 1.0], [2.0, 0.0], 3 / 4, (1 + 2 / 3) / 2),
        ([2.0, 2.0], [2.0, 1.0], (1 + 0.5) / 2, 2 / 3),
    ],
)
def test_figures(wrong: list[float], right: list[float], area: float, precision: float) -> None:
    pairs = [(False, score) for score in right] + [(True, score) for score in wrong]
    assert auroc(pairs) == pytest.approx(area)
    assert average_precision(pairs) == pytest.approx(precision)


def test_nothing_wrong_has_no_figure() -> None:
    assert auroc([(False, 1.0)]) is None
    assert average_precision([(False, 1.0)]) is None
    assert auroc([(True, 1.0)]) is None
