"""Each filter, on what it rejects and on what it has to leave alone."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from vigc.platform.quality.decide import known_filters
from vigc.platform.quality.filters import Filter, JudgedConversation, filters_for
from vigc.platform.quality.settings import FilterSettings
from vigc.platform.records import ConfigError, Kind

LOOP = "the dog sits on the mat and " * 6
EVERY = {
    one.name: one
    for one in filters_for(
        FilterSettings(min_words=2, max_words=40, language="en", min_grounding=0.2, disallowed=("as an AI",))
    )
}


def talk(
    answer: str, question: str = "What is the man doing?", kind: str = Kind.CONVERSATION, **known: object
) -> JudgedConversation:
    return JudgedConversation(
        kind, question, answer, **({"is_cut": False, "num_absent": None, "grounding": None} | known)
    )


def test_all_filters_are_here() -> None:
    alone = {"empty", "truncated", "no_question", "length", "repetitive", "question_repeated", "language", "absent"}
    assert set(EVERY) == alone | {"low_grounding", "disallowed"}
    assert set(EVERY) < known_filters()


@pytest.mark.parametrize(
    ("name", "rejected", "left"),
    [
        ("empty", talk("  "), talk("Two.")),
        ("empty", talk("Two.", question=""), talk("no")),
        ("truncated", talk("He rides a horse along the"), talk('He says "stop."')),
        ("truncated", talk("He rides.", is_cut=True), talk("red and blue")),
        ("truncated", talk("a list of seven bare words", kind=Kind.DETAIL), talk("a b c d e f", kind=Kind.KNOWLEDGE)),
        ("no_question", talk("Two.", question="Count them."), talk("Two.", question="你好？")),
        ("length", talk("Two."), talk("Two dogs.")),
        ("length", talk("word " * 41), talk("word " * 40)),
        ("repetitive", talk(LOOP), talk("There is a red ball. There is a blue cup. At the far right there is a tree.")),
        ("question_repeated", talk("What is the man doing? He rides."), talk("The man is doing a handstand.")),
        ("absent", talk("A cat.", num_absent=2), talk("A cat.", num_absent=1)),
        ("low_grounding", talk("A cat.", grounding=0.1), talk("A cat.", grounding=0.2)),
        ("disallowed", talk("As  an ai, I cannot."), talk("Was an air show.")),
        (
            "language",
            talk("Ein Mann reitet am Strand auf einem braunen Pferd.", question="Was tut der Mann?"),
            talk("A man rides a brown horse along the beach."),
        ),
        ("language", talk("两只狗在草地上玩耍。", question="这是什么？"), talk("Pizza.", question="Was?")),
    ],
)  # fmt: skip
def test_a_filter_rejects_what_it_is_for_and_leaves_what_is_like_it(
    name: str, rejected: JudgedConversation, left: JudgedConversation
) -> None:
    assert EVERY[name].rejects(rejected) is True
    assert not EVERY[name].rejects(left)


@pytest.mark.parametrize(
    ("name", "unknown"),
    [
        ("absent", talk("A cat.")),
        ("low_grounding", talk("A cat.")),
        ("no_question", talk("A cat.", question="Describe it.", kind=Kind.DETAIL)),
        ("language", talk("Pizza.", question="Was?")),
    ],
)
def test_what_cannot_be_told_is_not_judged(name: str, unknown: JudgedConversation) -> None:
    assert EVERY[name].rejects(unknown) is None


def test_every_filter_says_in_words_what_it_rejects() -> None:
    assert all(isinstance(one, Filter) and len(one.rule) > 10 and "{" not in one.rule for one in EVERY.values())
    assert "more than 1 objects" in EVERY["absent"].rule


def test_filters_can_be_left_out() -> None:
    assert "empty" not in {one.name for one in filters_for(FilterSettings(off=("empty",)))}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_repetition": 1.5}, "max_repetition\n.*less than or equal to 1"),
        ({"max_yes_no": 0.3}, "greater than or equal to 0.5"),
        ({"min_words": 9, "max_words": 3}, "the first is the smaller"),
        ({"max_distance": 65}, "less than or equal to 16"),
        ({"max_absent": -1}, "greater than or equal to 0"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings: dict[str, float], says: str) -> None:
    with pytest.raises((ConfigError, ValidationError), match=says):
        FilterSettings(**settings)


def test_a_language_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match="not a known one"):
        filters_for(FilterSettings(language="klingon"))
