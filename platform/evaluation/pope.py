"""POPE: is this object in the image? JSON Lines {question_id, image, text, label}, one file for each split.

A reply is read as its authors and LLaVA do: what stands before the first point, without commas; "no" if one of its
words is No, no or not, else "yes". Positive is yes. Source: arXiv 2305.10355. `vigc pope` makes such files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from vigc.platform.evaluation.items import Answered, Files, Item, Metric, Options, Scored
from vigc.platform.evaluation.reading import Origin, json_lines, unique
from vigc.platform.quality.pope import SPLITS
from vigc.platform.records import AnswerStyle, InputError

HEADLINE = "f1"
_NO = frozenset({"No", "no", "not"})


def read(files: Files, options: Options) -> list[Item]:
    """`questions` is one file, or a folder with a file for each split in it."""
    paths = _paths(files.questions)

    def items() -> Iterator[tuple[str, Item]]:
        for split, path in paths.items():
            origin = Origin(path, files.images)
            for place, record in json_lines(path):
                label = origin.text(place, record, "label")
                if label not in ("yes", "no"):
                    raise origin.fault(place, f"needs 'label', yes or no, and has {label!r}")
                key, image = origin.number(place, record, "question_id"), origin.text(place, record, "image")
                question = origin.text(place, record, "text")
                yield (
                    f"{path.name}: {place}",
                    Item(
                        f"{split}/{key}",
                        image,
                        origin.image(image),
                        question,
                        AnswerStyle.YES_NO,
                        json.dumps(label),
                        split,
                    ),
                )

    return unique(files.questions, items())


def _paths(place: Path) -> dict[str, Path]:
    if not place.is_dir():
        return {next((split for split in SPLITS if split in place.name), "questions"): place}
    found: dict[str, Path] = {}
    for path in sorted(place.glob("*.json*")):
        for split in SPLITS:
            if split in path.name:
                if split in found:
                    raise InputError(f"{place}: {found[split].name} and {path.name} are both of {split}. Leave one.")
                found[split] = path
    if not found:
        raise InputError(f"{place}: no file there has {', '.join(SPLITS)} in its name. Name a file, or their folder.")
    return {split: found[split] for split in SPLITS if split in found}


def says_yes(reply: str) -> bool:
    return _NO.isdisjoint(reply.partition(".")[0].replace(",", "").split())


def score(answered: Answered, options: Options) -> Scored:
    scored = Scored([])
    by_part: dict[str, list[tuple[str, bool, bool]]] = {}
    for item, reply in answered:
        label, said = json.loads(item.truth) == "yes", reply.error is None and says_yes(reply.text)
        # A question without an answer is wrong, whatever its label.
        said = said if reply.error is None else not label
        by_part.setdefault(item.part, []).append((item.image, label, said))
        scored.item_scores[item.id] = float(label == said)
    parts = by_part if len(by_part) > 1 else {}
    everything = [row for rows in by_part.values() for row in rows]
    scored.metrics = [metric for part, rows in {"": everything, **parts}.items() for metric in _metrics(part, rows)]
    return scored


def _metrics(part: str, rows: list[tuple[str, bool, bool]]) -> Iterator[Metric]:
    yield Metric("accuracy", [(image, float(label == said), 1.0) for image, label, said in rows], part)
    yield Metric("precision", [(image, float(label and said), float(said)) for image, label, said in rows], part)
    yield Metric("recall", [(image, float(label and said), float(label)) for image, label, said in rows], part)
    f1 = [(image, 2.0 * (label and said), float(label) + float(said)) for image, label, said in rows]
    yield Metric("f1", f1, part)
    yield Metric("yes_share", [(image, float(said), 1.0) for image, _, said in rows], part)
