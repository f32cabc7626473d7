"""LLaVA-Bench (COCO and in-the-wild): a judge that reads, but does not see, gives two answers marks from 1 to 10.

It is told what is in the image (captions and boxes, or a caption by people), the question, a reference answer and the
model's. The metric is the model's marks over the reference's, so it compares within one judge only. Published code puts
the reference first; here each pair is judged in both orders, since judges favour a place, and `reference_first` and
`candidate_first` stand beside `relative`, the metric of both. A reply without two marks in its first line counts
nowhere but in `unparsable`. Source: arXiv 2304.08485 §5; the judge is asked in this project's own words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vigc.platform.evaluation.items import Answered, Files, Item, Metric, Options, Scored
from vigc.platform.evaluation.judging import Case
from vigc.platform.evaluation.reading import Origin, json_lines, needed, origin_of, unique
from vigc.platform.records import AnswerStyle

HEADLINE = "relative"
ORDERS = ("reference_first", "candidate_first")
_STYLES = {"detail": AnswerStyle.DETAIL, "complex": AnswerStyle.REASONING}
_MARKS = re.compile(r"^\D*?(\d+(?:\.\d+)?)(?:\s*/\s*10)?[\s,;]+\D*?(\d+(?:\.\d+)?)")


def read(files: Files, options: Options) -> list[Item]:
    origin = origin_of(files)
    references = _by_id(needed(files.references, "references", "the file of reference answers"), "question_id", "text")
    context_file = needed(files.context, "context", "the file that tells the judge what is in each image")
    contexts = {
        origin.text(place, record, "image"): _context(Origin(context_file), place, record)
        for place, record in json_lines(context_file)
    }

    def items() -> Iterator[tuple[str, Item]]:
        for place, record in json_lines(origin.path):
            key, image = origin.number(place, record, "question_id"), origin.text(place, record, "image")
            category = origin.text(place, record, "category").removeprefix("llava_bench_")
            if key not in references:
                raise origin.fault(place, f"has question_id {key}, which is not in {files.references}")
            if image not in contexts:
                raise origin.fault(place, f"has the image {image}, of which {context_file} says nothing")
            truth = {"reference": references[key], "context": contexts[image]}
            yield (
                place,
                Item(
                    id=str(key),
                    image=image,
                    uri=origin.image(image),
                    question=origin.text(place, record, "text"),
                    style=_STYLES.get(category, AnswerStyle.CONVERSATION),
                    truth=json.dumps(truth),
                    part=category,
                ),
            )

    return unique(origin.path, items())


def _by_id(path: Path, key: str, field: str) -> dict[int, str]:
    origin = Origin(path)
    return {origin.number(place, one, key): origin.text(place, one, field) for place, one in json_lines(path)}


def _context(origin: Origin, place: str, record: dict[str, Any]) -> str:
    if "caption" in record:
        return origin.text(place, record, "caption")
    captions = origin.texts(place, record, "captions")
    boxes = record.get("instances")
    if not isinstance(boxes, list) or not all(isinstance(one, dict) and "category" in one for one in boxes):
        raise origin.fault(place, "needs 'caption', or 'captions' and 'instances', a list of objects")
    return "\n".join([*captions, "", *(f"{one['category']}: {one.get('bbox')}" for one in boxes)])


def cases(answered: Answered, options: Options) -> Iterator[Case]:
    for item, reply in answered:
        if reply.error is not None:
            continue
        truth = json.loads(item.truth)
        for order in ORDERS:
            pair = [truth["reference"], reply.text]
            first, second = pair if order == ORDERS[0] else pair[::-1]
            yield Case(
                f"{item.id}/{order}",
                "You compare two answers to a question about an image. You do not see the image; this is what is in it "
                f"(boxes are shares of its width and height: left, top, right, bottom).\n\n{truth['context']}\n\n"
                f"Question: {item.question}\n\n[Answer 1]\n{first}\n[End of answer 1]\n\n[Answer 2]\n{second}\n"
                "[End of answer 2]\n\nGive each answer a mark from 1 to 10 for how helpful, relevant, accurate and "
                "detailed it is. Write nothing but the two marks into the first line, that of answer 1 first, with a "
                "blank between them. Then say why, fairly, whichever stands first.",
                lambda text: marks(text) is not None,
            )


def marks(reply: str) -> tuple[float, float] | None:
    """The two numbers of a reply's first line."""
    lines = reply.strip().splitlines()
    found = _MARKS.match(lines[0]) if lines else None
    return (float(found[1]), float(found[2])) if found else None


def score(answered: Answered, options: Options) -> Scored:
    judged: dict[str, str] = options.get("judged", {})
    rows: dict[tuple[str, str], list[tuple[str, float, float]]] = {}
    scored = Scored([], counts={"judgements": 0, "unparsable": 0, "without_answer": 0})
    for item, reply in answered:
        if reply.error is not None:
            scored.counts["without_answer"] += 1
            continue
        pairs = []
        for order in ORDERS:
            scored.counts["judgements"] += 1
            found = marks(judged[f"{item.id}/{order}"])
            if found is None:
                scored.counts["unparsable"] += 1
                continue
            reference, candidate = found if order == ORDERS[0] else found[::-1]
            pairs.append((candidate, reference))
            for part in dict.fromkeys(("", item.part)):
                rows.setdefault((part, order), []).append((item.image, candidate, reference))
                rows.setdefault((part, "relative"), []).append((item.image, candidate, reference))
        if pairs and (below := sum(reference for _, reference in pairs)):
            scored.item_scores[item.id] = sum(candidate for candidate, _ in pairs) / below
    scored.metrics = [Metric(name, found, part) for (part, name), found in rows.items()]
    scored.notes.append("Marks compare within one judge only.")
    return scored
