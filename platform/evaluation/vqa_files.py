"""The two files of OKVQA and of VQAv2, a list of questions and one of annotations, joined by question_id."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vigc.platform.evaluation.items import Files, Item
from vigc.platform.evaluation.reading import Origin, needed, origin_of, unique
from vigc.platform.evaluation.vqa_rules import truth_of
from vigc.platform.instructions.fields import coco_2014, read_json
from vigc.platform.records import AnswerStyle, InputError


def read_vqa(files: Files, part_of: str) -> list[Item]:
    """
    Args:
        part_of: the field of an annotation whose values are parts, e.g. "answer_type".
    """
    asked = origin_of(files)
    path = needed(files.annotations, "annotations", "the file of answers, mscoco_val2014_annotations.json or its like")
    answered = Origin(path)
    questions, annotations = _list(asked.path, "questions"), _list(path, "annotations")
    split = _split(asked.path, questions)
    by_id: dict[int, tuple[str, dict[str, Any]]] = {}
    for place, record in answered.records(annotations["annotations"], "annotation"):
        key = answered.number(place, record, "question_id")
        if key in by_id:
            raise answered.fault(place, f"answers question_id {key}, as {by_id[key][0]} does")
        by_id[key] = place, record

    def items() -> Iterator[tuple[str, Item]]:
        for place, record in asked.records(questions["questions"], "question"):
            key = asked.number(place, record, "question_id")
            if key not in by_id:
                raise asked.fault(place, f"has question_id {key}, which is not in {path}")
            image = coco_2014(split, asked.number(place, record, "image_id"))
            where, annotation = by_id[key]
            answers = _answers(answered, where, annotation, "answer")
            raw = _answers(answered, where, annotation, "raw_answer") if _has_raw(annotation) else None
            yield (
                place,
                Item(
                    id=str(key),
                    image=image,
                    uri=asked.image(image),
                    question=asked.text(place, record, "question"),
                    style=AnswerStyle.SHORT,
                    truth=truth_of(answers, raw),
                    part=str(annotation.get(part_of) or ""),
                ),
            )

    return unique(asked.path, items())


def _list(path: Path, name: str) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get(name), list):
        raise InputError(f"{path}: has no list {name!r}. Is it the file of {name}?")
    return content


def _answers(origin: Origin, place: str, annotation: dict[str, Any], field: str) -> list[str]:
    given = annotation.get("answers")
    if not isinstance(given, list) or not given:
        raise origin.fault(place, "needs 'answers', a list of objects")
    texts = [one.get(field) if isinstance(one, dict) else None for one in given]
    if not all(isinstance(text, str) for text in texts):
        raise origin.fault(place, f"has an answer without {field!r}")
    return [str(text) for text in texts]


def _has_raw(annotation: dict[str, Any]) -> bool:
    return any(isinstance(one, dict) and "raw_answer" in one for one in annotation.get("answers") or ())


def _split(path: Path, questions: dict[str, Any]) -> str:
    for source in (questions.get("data_subtype"), path.name):
        if isinstance(source, str) and (found := re.search("(train|val|test)2014", source)):
            return found[1]
    raise InputError(
        f"{path}: neither 'data_subtype' nor the file's name says val2014 or train2014, so the images are unknown. "
        "Give the file its published name."
    )
