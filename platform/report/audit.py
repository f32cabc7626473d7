"""How far the automatic checks agree with a human who marked sentences in the report.

A check says that a sentence is wrong: it names an absent object, or its grounding is under a threshold. Precision is
the share of what the check calls wrong that the human calls wrong, recall the share of what the human calls wrong that
the check finds, Cohen's kappa the agreement beyond chance. The report also shows the worst rows, which no check treats
as it treats the others; so what was marked in the random sample is counted by itself, too. Sentences whose text is no
longer the data set's are counted and left out, and so are those that a check did not measure.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vigc.platform.dataset.store import Store
from vigc.platform.quality.ranking import auroc
from vigc.platform.records import InputError
from vigc.platform.storage import open_file

FORMAT = "vigc marks 1"
RIGHT, WRONG, RANDOM = "right", "wrong", "random"
ANSWERS = {"vig": "vig_sentences", "final": "sentences"}


@dataclass(frozen=True, slots=True)
class Mark:
    image_id: str
    kind: str
    answer: str  # a key of ANSWERS
    sentence: int
    text: str
    is_wrong: bool
    is_random: bool  # from the random sample of the report

    @property
    def place(self) -> tuple[str, str, str, int]:
        return self.image_id, self.kind, self.answer, self.sentence


@dataclass(frozen=True, slots=True)
class Agreement:
    """One check against the human. A metric is None where there is nothing to divide by."""

    num: int
    both_wrong: int
    only_check: int  # wrong by the check, right by the human
    only_human: int
    both_right: int
    precision: float | None
    recall: float | None
    kappa: float | None


@dataclass(frozen=True, slots=True)
class Checks:
    """The checks against the same marks."""

    num_marks: int
    num_wrong: int  # by the human
    objects: Agreement  # names an absent object
    grounding: Agreement  # under the threshold
    grounding_auroc: float | None  # how well grounding alone tells wrong from right


@dataclass(frozen=True, slots=True)
class Audit:
    num_stale: int  # marks of sentences that the data set does not hold any more
    grounding_below: float
    every: Checks
    random: Checks


def read_marks(place: str) -> list[Mark]:
    """Raises InputError for what is no file of marks."""
    folder, name = open_file(place)
    try:
        values = json.loads(folder.read(name))
        if values["format"] != FORMAT:
            raise InputError(f"{place}: of the format {values['format']!r}, not {FORMAT!r}. Download the marks again.")
        return [_mark(one) for one in values["marks"]]
    except FileNotFoundError as error:
        raise InputError(f"{place}: there is no such file. Download the marks in report.html.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{place}: no file of marks ({error!r}). Download the marks in report.html.") from error


def _mark(one: Mapping[str, Any]) -> Mark:
    if one["mark"] not in (RIGHT, WRONG) or one["answer"] not in ANSWERS:
        raise ValueError(f"{one['mark']} of {one['answer']}")
    return Mark(
        str(one["image_id"]),
        str(one["kind"]),
        one["answer"],
        int(one["sentence"]),
        str(one["text"]),
        one["mark"] == WRONG,
        one.get("section") == RANDOM,
    )


def audit(store: Store, marks: Sequence[Mark], grounding_below: float = 0.0) -> Audit:
    """Raises InputError where there is no mark, or none of this data set."""
    measured = dict(_sentences(store, {mark.image_id for mark in marks}))
    current = [mark for mark in marks if measured.get(mark.place, {}).get("text") == mark.text]
    if not current:
        raise InputError(f"None of the {len(marks)} marks is of a sentence in {store}. Are they of another data set?")

    def checks(chosen: Sequence[Mark]) -> Checks:
        return _checks([(mark.is_wrong, measured[mark.place]) for mark in chosen], grounding_below)

    random = [mark for mark in current if mark.is_random]
    return Audit(len(marks) - len(current), grounding_below, checks(current), checks(random))


def _checks(found: Sequence[tuple[bool, Mapping[str, Any]]], grounding_below: float) -> Checks:
    absent = [(is_wrong, one["objects_absent"]) for is_wrong, one in found]
    grounded = [(is_wrong, float(one["grounding"])) for is_wrong, one in found if one["grounding"] is not None]
    return Checks(
        num_marks=len(found),
        num_wrong=sum(is_wrong for is_wrong, _ in found),
        objects=agreement([(is_wrong, bool(one)) for is_wrong, one in absent if one is not None]),
        grounding=agreement([(is_wrong, value < grounding_below) for is_wrong, value in grounded]),
        grounding_auroc=auroc([(is_wrong, -value) for is_wrong, value in grounded]),
    )


def agreement(pairs: Sequence[tuple[bool, bool]]) -> Agreement:
    """
    Args:
        pairs: whether the human, and whether the check calls a sentence wrong.
    """
    both = sum(human and check for human, check in pairs)
    only_check = sum(check and not human for human, check in pairs)
    only_human = sum(human and not check for human, check in pairs)
    neither = len(pairs) - both - only_check - only_human
    num = len(pairs)
    kappa = None
    if num:
        observed = (both + neither) / num
        chance = ((both + only_check) * (both + only_human) + (neither + only_check) * (neither + only_human)) / num**2
        kappa = None if chance == 1 else (observed - chance) / (1 - chance)
    return Agreement(
        num=num,
        both_wrong=both,
        only_check=only_check,
        only_human=only_human,
        both_right=neither,
        precision=both / (both + only_check) if both + only_check else None,
        recall=both / (both + only_human) if both + only_human else None,
        kappa=kappa,
    )


def _sentences(store: Store, image_ids: set[str]) -> Iterator[tuple[tuple[str, str, str, int], dict[str, Any]]]:
    """What was measured on every sentence of these images, by its place."""
    wanted = pa.array(sorted(image_ids), pa.string())
    for batch in store.batches(["image_id", "conversations"]):
        for row in batch.filter(pc.is_in(batch["image_id"], value_set=wanted)).to_pylist():
            for spoken in row["conversations"]:
                for answer, name in ANSWERS.items():
                    for number, sentence in enumerate(spoken[name] or ()):
                        yield (row["image_id"], spoken["kind"], answer, number), sentence
