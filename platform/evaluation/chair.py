"""CHAIR: describe each image, then count the objects named that are not in it (arXiv 1809.02156).

Any annotated source will do: `questions` is the folder of images or the annotation file, as for `vigc generate`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from vigc.platform.evaluation.items import Answered, Files, Item, Metric, Options, Scored
from vigc.platform.evaluation.reading import unique
from vigc.platform.quality.chair import count_text
from vigc.platform.quality.mentions import ObjectFinder
from vigc.platform.quality.presence import LIMIT, present_categories
from vigc.platform.records import AnswerStyle, InputError
from vigc.platform.sources import open_source
from vigc.platform.vocabulary import Vocabulary, load_vocabulary, vocabulary_of

HEADLINE = "chair_i"
QUESTION = "Describe this image in detail."


def read(files: Files, options: Options) -> list[Item]:
    source = open_source(str(files.images or files.questions), files.annotations)
    vocabulary = load_vocabulary(files.objects) if files.objects != "auto" else vocabulary_of(source.categories() or ())
    if vocabulary is None:
        raise InputError(
            f"{files.questions}: its images have no annotated objects, so nothing is known to be absent. "
            "Name the annotations (--annotations)."
        )
    options["vocabulary"] = vocabulary.as_json()
    finder = ObjectFinder(vocabulary)

    def items() -> Iterator[tuple[str, Item]]:
        for number, record in enumerate(source):
            present = present_categories(finder, record)
            if present is not None:
                truth = json.dumps(sorted(present))
                yield (
                    source.place(number),
                    Item(record.image_id, record.image_id, record.uri, QUESTION, AnswerStyle.DETAIL, truth),
                )

    return unique(files.questions, items())


def score(answered: Answered, options: Options) -> Scored:
    finder = ObjectFinder(Vocabulary.from_json(options["vocabulary"]))
    rows: dict[str, list[tuple[str, float, float]]] = {"chair_i": [], "chair_s": [], "recall": [], "mean_words": []}
    scored = Scored([], counts={"mentions": 0, "absent": 0}, notes=[LIMIT])
    for item, reply in answered:
        if reply.error is not None:
            continue  # no text: neither right nor wrong
        _, words, mentions, absent, is_wrong, present, found = count_text(
            reply.text, frozenset(json.loads(item.truth)), finder
        )
        rows["chair_i"].append((item.image, absent, mentions))
        rows["chair_s"].append((item.image, is_wrong, 1.0))
        rows["recall"].append((item.image, found, present))
        rows["mean_words"].append((item.image, words, 1.0))
        scored.counts["mentions"] += mentions
        scored.counts["absent"] += absent
        scored.item_scores[item.id] = float(absent)
    scored.metrics = [Metric(name, found, is_rate=name != "mean_words") for name, found in rows.items()]
    return scored
