"""CHAIR, worked out by hand and against every resample there is."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product

import numpy as np
import pytest
from records_for_quality import image

from vigc.platform.quality.chair import Chair, Estimate, chair
from vigc.platform.quality.mentions import ObjectFinder
from vigc.platform.quality.presence import LIMIT, present_categories
from vigc.platform.vocabulary import load_vocabulary


@cache
def finder(name: str = "coco") -> ObjectFinder:
    return ObjectFinder(load_vocabulary(name))


# One text a line: what its image holds; its mentions with their category, the absent ones in capitals.
TEXTS = [
    # person, dog; the caption adds the couch | man=person, puppy=dog, couch, CAT, CAT
    #   5 mentions, 2 absent; 3 of 3 found; 13 words
    ("A man and a puppy on a couch with a cat. Another cat.", image(["person", "dog"], ["A dog on a sofa."])),
    # bus, traffic light, and a crowd of people | bus, bus, traffic light
    #   3 mentions, 0 absent; 2 of 3 found; 11 words
    ("The bus is next to another bus at the traffic light.", image(["bus", "traffic light"], crowds=["person"])),
    # annotated, and nothing in it | HORSE
    #   1 mention, 1 absent; 0 of 0 found; 7 words
    ("There is a horse and no dog.", image([])),
    # cat | nothing
    #   0 mentions, 0 absent; 0 of 1 found; 2 words
    ("It rains.", image(["cat"])),
]
# text: words, mentions, absent, wrong, present, found
COUNTS = np.array([[13, 5, 2, 1, 3, 3], [11, 3, 0, 0, 3, 2], [7, 1, 1, 1, 0, 0], [2, 0, 0, 0, 1, 0]])


def figures(texts: list[tuple[str, object]] = TEXTS, **settings: int) -> Chair:
    pairs = []
    for text, record in texts:
        present = present_categories(finder(), record)
        assert present is not None
        pairs.append((text, present))
    return chair(pairs, finder(), **settings)


def test_a_fixture_worked_out_by_hand() -> None:
    made = figures()
    assert (made.num_texts, made.num_mentions, made.num_absent, made.num_present) == (4, 9, 3, 7)
    values = [estimate.value for estimate in (made.chair_i, made.chair_s, made.recall, made.mean_words) if estimate]
    assert values == pytest.approx([3 / 9, 2 / 4, 5 / 7, 33 / 4])


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("chair_i", lambda sums: sums[2] / sums[1] if sums[1] else None),
        ("chair_s", lambda sums: sums[3] / 4),
        ("recall", lambda sums: sums[5] / sums[4] if sums[4] else None),
        ("mean_words", lambda sums: sums[0] / 4),
    ],
)
def test_intervals_are_those_of_all_resamples_there_are(name: str, rate: Callable[[np.ndarray], float | None]) -> None:
    every = [rate(COUNTS[list(drawn)].sum(axis=0)) for drawn in product(range(4), repeat=4)]
    possible = np.sort([value for value in every if value is not None])
    estimate = getattr(figures(num_resamples=20_000), name)
    for end, share in ((estimate.low, 0.025), (estimate.high, 0.975)):
        # The share of all 256 resamples below the end, and up to it, lie on both sides of the percentile.
        assert np.mean(possible < end - 1e-9) <= share + 0.005
        assert np.mean(possible <= end + 1e-9) >= share - 0.005


def test_the_same_seed_gives_the_same_intervals() -> None:
    few = {"num_resamples": 40}
    assert figures(seed=1, **few) == figures(seed=1, **few)
    assert figures(seed=1, **few) != figures(seed=2, **few)


def test_no_texts_have_no_rates() -> None:
    assert figures([]) == Chair(0, 0, 0, 0, None, None, None, None)


def test_one_text_without_mention_or_truth_has_a_length_and_no_rates_to_divide() -> None:
    made = figures([("It rains.", image([]))])
    assert made == Chair(1, 0, 0, 0, None, Estimate(0, 0, 0), None, Estimate(2, 2, 2))


def test_one_text_gives_an_interval_of_no_width() -> None:
    made = figures([("A dog and a cat.", image(["dog"]))])
    half, one = Estimate(0.5, 0.5, 0.5), Estimate(1, 1, 1)
    assert (made.chair_i, made.chair_s, made.recall) == (half, one, one)


def test_shoes_find_annotated_sneakers_and_sneakers_are_not_found_by_slippers() -> None:
    made = chair([("Shoes.", {"sneakers"}), ("Slippers.", {"sneakers"})], finder("objects365"))
    assert (made.num_absent, made.num_mentions) == (1, 2)
    assert made.recall is not None
    assert made.recall.value == 0.5


def test_the_known_limit_is_a_sentence_for_the_outputs() -> None:
    assert "Boxes are incomplete" in LIMIT
