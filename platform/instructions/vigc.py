"""VIGC's own JSON: a list of `{image, question, answer, …}`, in the forms that its code reads and writes.

- LLaVA sets: `answer` is a list, drawn by frequency; `dataset` names the LLaVA file.
- OKVQA and VQAv2: `answer` is a list of ten.
- Generated VQA: `answer` with a list `weight`, which says how often each is drawn (model/README.md, "Knowledge
  questions").
- Generated LLaVA data: `answer` is a text; `instruction` and `original_answer` stay aside.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from vigc.platform.instructions.fields import Origin, evenly, kind_in_name
from vigc.platform.records import Instruction, Kind


class VigcFile:
    format = "vigc"

    def __init__(self, origin: Origin, content: Any) -> None:
        self._origin, self._content = origin, content
        self._kind = kind_in_name(origin.path.stem)

    def describe(self) -> str:
        return f"vigc {self._origin.path}"

    def __iter__(self) -> Iterator[Instruction]:
        for place, record in self._origin.records(self._content):
            made = self._origin.instruction(
                place,
                self._origin.text(place, record, "image"),
                self._origin.text(place, record, "question"),
                self._best(self._answers(place, record)),
                self._kind_of(place, record),
            )
            if self._is_good_enough(record):
                yield made

    def _best(self, answers: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
        """The best by weight, as many as are chosen."""
        return sorted(answers, key=lambda one: -one[1])[: self._origin.choice.top_k]

    def _is_good_enough(self, record: dict[str, Any]) -> bool:
        least = self._origin.choice.min_score
        return least is None or max(record.get("weight", [1.0])) > least

    def _answers(self, place: str, record: dict[str, Any]) -> Iterable[tuple[str, float]]:
        if isinstance(record.get("answer"), str):
            return evenly([record["answer"]])
        answers = self._origin.texts(place, record, "answer")
        if "weight" not in record:
            return evenly(answers)
        weights = record["weight"]
        if not isinstance(weights, list) or len(weights) != len(answers) or not all(map(_is_weight, weights)):
            raise self._origin.fault(place, f"needs 'weight', {len(answers)} numbers from 0 up, one for each answer")
        return zip(answers, weights, strict=True)

    def _kind_of(self, place: str, record: dict[str, Any]) -> Kind:
        if self._origin.kind is not None:
            return self._origin.kind
        named = record.get("dataset")
        kind = (kind_in_name(named) if isinstance(named, str) else None) or self._kind
        if kind is not None:
            return kind
        if isinstance(record.get("answer"), list) and (len(record["answer"]) > 1 or "weight" in record):
            return Kind.KNOWLEDGE  # only the VQA sets have several answers to a question
        raise self._origin.fault(place, "does not say of what kind it is, nor does the file's name; pass the kind")


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
