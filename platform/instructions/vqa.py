"""OKVQA and VQAv2: a file of questions and a file of annotations, joined by question_id; images of COCO 2014.

Either file is named, the other is found beside it. Ten answers to each question, drawn as often as annotators gave
them. OKVQA's `answer` is stemmed ("ride" for "riding"), so `raw_answer` is taken where there is one.
Source: arXiv 1906.00067, arXiv 1612.00837.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vigc.platform.instructions.fields import Origin, coco_2014, evenly, read_json
from vigc.platform.records import InputError, Instruction, Kind


class VqaFiles:
    def __init__(self, origin: Origin, content: Any) -> None:
        """Raises InputError when the other file is not there or cannot be read."""
        if not isinstance(content, dict) or not self.fits(content):
            raise InputError(
                f"{origin.path}: has neither 'questions' nor 'annotations', so it is no file of a VQA set."
            )
        if "questions" in content:
            questions, annotations = origin.path, _annotations_beside(origin.path)
        else:
            questions, annotations = _questions_beside(origin.path), origin.path
        self._questions = Origin(questions, origin.images, origin.kind)
        self._annotations = Origin(annotations)
        self._asked = content if "questions" in content else self._read(self._questions, "questions")
        answered = content if "questions" not in content else self._read(self._annotations, "annotations")
        self._answered: dict[int, tuple[str, dict[str, Any]]] = {}
        for place, record in self._annotations.records(answered["annotations"], "annotation"):
            key = self._annotations.number(place, record, "question_id")
            if key in self._answered:
                raise self._annotations.fault(place, f"answers question_id {key}, as {self._answered[key][0]} does")
            self._answered[key] = place, record
        self._split = self._find_split()

    @staticmethod
    def fits(content: dict[str, Any]) -> bool:
        """Whether this is one of the two files. COCO's own annotations have no questions."""
        if "questions" in content:
            return True
        first = next(iter(content.get("annotations") or []), None)
        return isinstance(first, dict) and "question_id" in first

    @property
    def format(self) -> str:
        _, first = next(iter(self._answered.values()), ("", {}))
        return "vqav2" if "multiple_choice_answer" in first else "okvqa"

    def describe(self) -> str:
        return f"{self.format} {self._questions.path}, answers in {self._annotations.path}"

    def __iter__(self) -> Iterator[Instruction]:
        for place, record in self._questions.records(self._asked["questions"], "question"):
            key = self._questions.number(place, record, "question_id")
            if key not in self._answered:
                raise self._questions.fault(place, f"has question_id {key}, which is not in {self._annotations.path}")
            image = coco_2014(self._split, self._questions.number(place, record, "image_id"))
            question = self._questions.text(place, record, "question")
            answers = evenly(self._answers(*self._answered[key]))
            yield self._questions.instruction(place, image, question, answers, Kind.KNOWLEDGE)

    def _answers(self, place: str, record: dict[str, Any]) -> Iterator[str]:
        given = record.get("answers")
        if not isinstance(given, list) or not given:
            raise self._annotations.fault(place, "needs 'answers', a list of objects")
        for answer in given:
            text = answer.get("raw_answer", answer.get("answer")) if isinstance(answer, dict) else None
            if not isinstance(text, str):
                raise self._annotations.fault(place, f"has an answer without text: {answer!r}")
            yield text

    def _read(self, origin: Origin, name: str) -> dict[str, Any]:
        content = read_json(origin.path)
        if not isinstance(content, dict) or name not in content:
            raise InputError(f"{origin.path}: has no list {name!r}. Is it the file that belongs to the other one?")
        return content

    def _find_split(self) -> str:
        """train or val, from the questions file or its name."""
        for source in (self._asked.get("data_subtype"), self._questions.path.name):
            if isinstance(source, str) and (match := re.search("(train|val)2014", source)):
                return match[1]
        raise InputError(
            f"{self._questions.path}: neither 'data_subtype' nor the file's name says train2014 or val2014, so the "
            "images are unknown. Give the file its published name."
        )


def _partner(questions: str) -> str:
    """v2_OpenEnded_mscoco_train2014_questions.json -> v2_mscoco_train2014_annotations.json"""
    return re.sub("(OpenEnded|MultipleChoice)_", "", questions).replace("questions", "annotations")


def _annotations_beside(questions: Path) -> Path:
    found = questions.with_name(_partner(questions.name))
    if found == questions or not found.is_file():
        raise InputError(f"{questions}: the answers are expected beside it, in {found.name}. Put that file there.")
    return found


def _questions_beside(annotations: Path) -> Path:
    for candidate in sorted(annotations.parent.glob("*questions*.json")):
        if _partner(candidate.name) == annotations.name:
            return candidate
    raise InputError(
        f"{annotations}: the questions are expected beside it, in a file such as "
        "OpenEnded_mscoco_train2014_questions.json for mscoco_train2014_annotations.json. Put that file there."
    )
