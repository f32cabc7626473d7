"""The continuous engine says what the reference engine says, whatever else it is at work on."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from exactness import Said, Unsure, compare, load

from vigc.model.engines.continuous.engine import ContinuousEngine
from vigc.model.engines.reference import ReferenceEngine
from vigc.model.network import Network

# Made by `tests/helpers/exactness.py`; the kinds take turns.
EXPECTED = load(Path(__file__).with_name("reference_texts.json"))


@pytest.mark.parametrize(
    ("num_slots", "async_scheduling", "order"),
    [
        pytest.param(3, False, "sorted", marks=pytest.mark.slow),
        pytest.param(8, True, "reversed", marks=pytest.mark.slow),
        (33, False, "shuffled"),
        pytest.param(64, True, "sorted", marks=pytest.mark.slow),
        pytest.param(128, False, "shuffled", marks=pytest.mark.slow),
    ],
)
def test_texts_are_those_of_the_reference_with_any_slots_and_in_any_order(
    network: Network, num_slots: int, async_scheduling: bool, order: str
) -> None:
    """fp32, greedy, a hundred scenes. A difference is excused where two tokens were as good, and there is none here."""
    places = list(range(len(EXPECTED)))
    if order == "reversed":
        places.reverse()
    elif order == "shuffled":
        random.Random(num_slots).shuffle(places)
    engine = ContinuousEngine(network, num_slots=num_slots, async_scheduling=async_scheduling)
    try:
        found = compare(engine, EXPECTED, places)
    finally:
        engine.close()
    for one in (*found.excused, *found.wrong):
        print(one)
    assert len(EXPECTED) == 100
    assert (found.num_equal, found.excused, found.wrong) == (100, [], [])


@pytest.mark.slow
def test_the_texts_kept_are_those_that_the_reference_makes_one_by_one_and_in_batches(network: Network) -> None:
    for batch_size in (1, 4):
        engine = ReferenceEngine(network, batch_size=batch_size)
        try:
            found = compare(engine, EXPECTED[:12])
        finally:
            engine.close()
        assert (found.num_equal, found.wrong) == (12 - len(found.excused), [])


def test_a_difference_is_excused_only_where_two_tokens_were_as_good(continuous: ContinuousEngine) -> None:
    (first,) = EXPECTED[:1]
    word = first[0].text.split()[2]
    place = first[0].text.index(word)
    changed = first[0].text.replace(word, "else", 1)

    def found_with(*unsure: Unsure) -> tuple[int, int, int]:
        found = compare(continuous, [[Said(changed, list(unsure)), *first[1:]]])
        return found.num_equal, len(found.excused), len(found.wrong)

    assert found_with() == (0, 0, 1)
    assert found_with(Unsure(place, place + len(word), 5e-5)) == (0, 1, 0)
    assert found_with(Unsure(place + 20, place + 25, 5e-5)) == (0, 0, 1)
    assert compare(continuous, [first[:1]]).wrong  # more was said than expected
