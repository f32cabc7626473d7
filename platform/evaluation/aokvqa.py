"""A-OKVQA: questions that need knowledge, answered directly and by choosing among four (arXiv 2206.01718).

Each question is asked three times: for a direct answer, for a letter, and for the probabilities of the four choices,
of which the likeliest is taken (the sum over a choice's tokens and its end mark, as VIGC does). `direct` is the
official metric: min(1, k / 3) of exact matches, nothing normalised, without the questions that are marked as difficult
to answer directly; one published script leaves those out of multiple choice instead: `--difficult choice`.
`direct_vigc` is VIGC's: normalised, over all questions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from vigc.platform.evaluation.choices import options_text, parse_letter
from vigc.platform.evaluation.items import Answered, Files, Item, Metric, Options, Scored
from vigc.platform.evaluation.reading import origin_of, unique
from vigc.platform.evaluation.vqa_rules import accuracy, matches
from vigc.platform.instructions.fields import coco_2017, read_json
from vigc.platform.records import AnswerStyle

HEADLINE = "direct"
DIFFICULT = ("direct", "choice", "none")  # from which setting difficult questions are left out


def read(files: Files, options: Options) -> list[Item]:
    origin = origin_of(files)

    def items() -> Iterator[tuple[str, Item]]:
        for place, record in origin.records(read_json(origin.path)):
            choices = origin.texts(place, record, "choices")
            correct = origin.number(place, record, "correct_choice_idx")
            if correct >= len(choices):
                raise origin.fault(place, f"has correct_choice_idx {correct}, but {len(choices)} choices")
            difficult = record.get("difficult_direct_answer", False)
            if not isinstance(difficult, bool):
                raise origin.fault(place, f"needs 'difficult_direct_answer', true or false, and has {difficult!r}")
            direct = origin.texts(place, record, "direct_answers")
            truth = json.dumps({"direct": direct, "choices": choices, "correct": correct, "difficult": difficult})
            image = coco_2017(origin.text(place, record, "split"), origin.number(place, record, "image_id"))
            key, question = origin.text(place, record, "question_id"), origin.text(place, record, "question")
            for setting, style in (
                ("direct", AnswerStyle.SHORT),
                ("letter", AnswerStyle.LETTER),
                ("rank", AnswerStyle.RANK),
            ):
                text = f"{question}\n{options_text(choices)}" if style is AnswerStyle.LETTER else question
                ranked = choices if style is AnswerStyle.RANK else []
                yield (
                    place,
                    Item(f"{key}/{setting}", image, origin.image(image), text, style, truth, candidates=ranked),
                )

    return unique(origin.path, items())


def score(answered: Answered, options: Options) -> Scored:
    left_out = options.get("difficult", "direct")
    names = ("direct", "direct_vigc", "choice_ranked", "choice_generated")
    rows: dict[str, list[tuple[str, float, float]]] = {name: [] for name in names}
    scored = Scored([], counts={"without_letter": 0, "not_ranked": 0, "difficult": 0})
    for item, reply in answered:
        truth = json.loads(item.truth)
        setting = item.id.rpartition("/")[2]
        skipped = truth["difficult"] and left_out == ("direct" if setting == "direct" else "choice")
        if setting == "direct":
            scored.counts["difficult"] += truth["difficult"]
            equal = matches(reply.text, truth["direct"])
            rows["direct_vigc"].append((item.image, accuracy(equal, "vigc"), 1.0))
            if not skipped:
                value = min(1.0, sum(reply.text.strip() == answer for answer in truth["direct"]) / 3)
                rows["direct"].append((item.image, value, 1.0))
                scored.item_scores[item.id] = value
        elif not skipped and setting == "letter":
            chosen = parse_letter(reply.text, truth["choices"])
            scored.counts["without_letter"] += chosen is None
            rows["choice_generated"].append((item.image, float(chosen == truth["correct"]), 1.0))
        elif not skipped:
            if reply.best is None and reply.error is None:
                scored.counts["not_ranked"] += 1  # an endpoint gives no probabilities
                continue
            rows["choice_ranked"].append((item.image, float(reply.best == truth["correct"]), 1.0))
    scored.metrics = [Metric(name, found) for name, found in rows.items() if found]
    if scored.counts["not_ranked"]:
        scored.notes.append("This model gives no probabilities of texts, so choices were not ranked.")
    return scored
