"""What a record must be for trainers to take it, rule by rule; each fault has a short stable name and a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from itertools import pairwise

from vigc.platform.exports.validate.reading import ASSISTANT, SYSTEM, USER, Record, Turn


class Rule(StrEnum):
    """The names of findings. NOTES are no faults: a trainer takes such rows, but one wants to know."""

    UNREADABLE = "unreadable"
    TURNS = "turns"
    EMPTY = "empty"
    MARKS = "marks"
    SAME = "same"
    MISSING = "missing image"
    BROKEN = "broken image"
    TOO_LONG = "too long"
    EVALUATION = "evaluation image"
    REPEATED_ID = "repeated id"
    REPEATED = "repeated row"


NOTES = frozenset({Rule.REPEATED_ID, Rule.REPEATED})

MEANINGS = {
    Rule.UNREADABLE: "the row is in no layout that is known",
    Rule.TURNS: "user and assistant do not take turns, the user first, the assistant last",
    Rule.EMPTY: "a turn says nothing",
    Rule.MARKS: "the marks for images in the text do not match the images",
    Rule.SAME: "chosen and rejected say the same",
    Rule.MISSING: "an image is not there",
    Rule.BROKEN: "an image does not open",
    Rule.TOO_LONG: "more tokens than allowed",
    Rule.EVALUATION: "an image is one that models are evaluated on",
    Rule.REPEATED_ID: "another row has the same id",
    Rule.REPEATED: "another row has the same images and texts",
}


def faults(record: Record) -> Iterator[tuple[Rule, str]]:
    """All that can be seen in the record alone."""
    if record.fault is not None:
        yield Rule.UNREADABLE, record.fault
        return
    yield from _speakers(record.turns)
    turns = [*record.turns, *(record.rejected or ())]
    for number, turn in enumerate(turns):
        if not turn.text and not (turn.role == USER and turn.num_marks):
            yield Rule.EMPTY, f"turn {number} ({turn.role}) says nothing"
    yield from _marks(record, turns)
    if record.rejected is not None:
        if any(turn.role != ASSISTANT for turn in record.rejected):
            yield Rule.TURNS, "the rejected text is not the assistant's"
        if record.rejected == record.turns[-len(record.rejected) :]:
            yield Rule.SAME, "chosen and rejected are equal"


def _speakers(turns: list[Turn]) -> Iterator[tuple[Rule, str]]:
    spoken = turns[1:] if turns and turns[0].role == SYSTEM else turns
    if not spoken:
        yield Rule.TURNS, "nobody says anything"
        return
    if unknown := {turn.role for turn in spoken} - {USER, ASSISTANT}:
        yield Rule.TURNS, f"{min(unknown)!r} speaks"
    elif spoken[0].role != USER:
        yield Rule.TURNS, "the assistant speaks first"
    elif any(before.role == after.role for before, after in pairwise(spoken)):
        number = next(n for n, (one, other) in enumerate(pairwise(spoken)) if one.role == other.role)
        yield Rule.TURNS, f"turns {number} and {number + 1} are both the {spoken[number].role}'s"
    elif spoken[-1].role != ASSISTANT:
        yield Rule.TURNS, "the user speaks last: the last question has no answer"


def _marks(record: Record, turns: list[Turn]) -> Iterator[tuple[Rule, str]]:
    if any(turn.num_marks for turn in turns if turn.role != USER):
        yield Rule.MARKS, "an image is marked in a text that is not the user's"
        return
    num_marks = sum(turn.num_marks for turn in record.turns)
    if num_marks != len(record.images):
        yield Rule.MARKS, f"{num_marks} marks for {len(record.images)} images"
