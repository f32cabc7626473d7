"""An own question file: JSON Lines of {"image", "question", "answers"}, and "type" and "id" where there are some.

`exact` is whether the reply is one of the answers, both normalised as VQA does; the VQA accuracies are there where all
questions have at least three answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from vigc.platform.evaluation.items import Answered, Files, Item, Metric, Options, Scored
from vigc.platform.evaluation.reading import json_lines, origin_of, unique
from vigc.platform.evaluation.vqa_rules import VARIANTS, matches, score_vqa, truth_of
from vigc.platform.records import AnswerStyle

HEADLINE = "exact"
MIN_ANSWERS = 3


def read(files: Files, options: Options) -> list[Item]:
    origin = origin_of(files)

    def items() -> Iterator[tuple[str, Item]]:
        for number, (place, record) in enumerate(json_lines(origin.path)):
            image = origin.text(place, record, "image")
            given = record.get("answers", record.get("answer"))
            answers = origin.texts(place, record | {"answers": [given] if isinstance(given, str) else given}, "answers")
            yield (
                place,
                Item(
                    id=str(record.get("id", number)),
                    image=image,
                    uri=origin.image(image),
                    question=origin.text(place, record, "question"),
                    style=AnswerStyle.SHORT,
                    truth=truth_of(answers),
                    part=str(record.get("type") or ""),
                ),
            )

    return unique(origin.path, items())


def score(answered: Answered, options: Options) -> Scored:
    rows: dict[str, list[tuple[str, float, float]]] = {"": []}
    scored = Scored([])
    num_answers = []
    for item, reply in answered:
        answers = json.loads(item.truth)["answers"]
        num_answers.append(len(answers))
        is_right = float(any(matches(reply.text, answers)))
        scored.item_scores[item.id] = is_right
        for part in dict.fromkeys(("", item.part)):
            rows.setdefault(part, []).append((item.image, is_right, 1.0))
    scored.metrics = [Metric("exact", found, part) for part, found in rows.items()]
    if min(num_answers) >= MIN_ANSWERS:
        vqa = score_vqa(answered, VARIANTS).metrics
        scored.metrics += [Metric(f"vqa_{one.name}", one.rows, one.part) for one in vqa]
    return scored
