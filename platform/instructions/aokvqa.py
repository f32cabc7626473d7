"""A-OKVQA: questions that need knowledge, with ten direct answers and four choices (arXiv 2206.01718).

`aokvqa_v1p0_{train,val}.json`, whose images are those of COCO 2017, or VIGC's copy of it, which names their paths.
Direct answers are drawn as often as annotators gave them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vigc.platform.instructions.fields import Origin, coco_2017, evenly
from vigc.platform.records import Instruction, Kind


class AokvqaFile:
    format = "aokvqa"

    def __init__(self, origin: Origin, content: Any, choices: bool = False) -> None:
        self._origin, self._content, self._choices = origin, content, choices

    def describe(self) -> str:
        return f"aokvqa {self._origin.path}{', with choices' if self._choices else ''}"

    def __iter__(self) -> Iterator[Instruction]:
        for place, record in self._origin.records(self._content):
            question = self._origin.text(place, record, "question")
            if "direct_answers" not in record and "correct_choice_idx" not in record:
                raise self._origin.fault(place, "has no answers; the test split cannot be learnt from")
            if self._choices:
                choices = self._origin.texts(place, record, "choices")
                correct = self._origin.number(place, record, "correct_choice_idx")
                if correct >= len(choices):
                    raise self._origin.fault(place, f"has correct_choice_idx {correct}, but {len(choices)} choices")
                question = f"{question.strip()} Options: {', '.join(choices)}."
                answers = [choices[correct]]
            else:
                answers = self._origin.texts(place, record, "direct_answers")
            image = self._image(place, record)
            yield self._origin.instruction(place, image, question, evenly(answers), Kind.KNOWLEDGE)

    def _image(self, place: str, record: dict[str, Any]) -> str:
        for name in ("image_path", "image"):
            if name in record:
                return self._origin.text(place, record, name)
        split = self._origin.text(place, record, "split")
        return coco_2017(split, self._origin.number(place, record, "image_id"))
