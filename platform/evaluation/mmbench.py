"""MMBench: choices about images, right only if they are right in every order of the options (arXiv 2307.06281).

A TSV with the images in it. Where a row stands once, its options are rotated here; where the file has the rotations
as rows of their own (index + k * 1,000,000), those are asked. A reply is read by `choices.parse_letter`; what that
leaves unmatched is wrong and counted, or goes to a judge if there is one.
"""

from __future__ import annotations

import base64
import binascii
import csv
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from vigc.platform.evaluation.choices import LETTERS, options_text, parse_letter
from vigc.platform.evaluation.items import Answered, Files, Item, Metric, Options, Scored
from vigc.platform.evaluation.judging import Case
from vigc.platform.evaluation.reading import unique
from vigc.platform.records import AnswerStyle, InputError

HEADLINE = "circular"
ROTATED = 1_000_000
NUM_TRIES = 3
NO_OPTION = "Z"
ABILITIES = {
    "logic_reasoning": "LR",
    "attribute_reasoning": "AR",
    "relation_reasoning": "RR",
    "finegrained_perception (instance-level)": "FP-S",
    "finegrained_perception (cross-instance)": "FP-C",
    "coarse_perception": "CP",
}
_COLUMNS = ("index", "question", "A", "B", "answer", "l2-category", "image")
_SUFFIXES = {b"\xff\xd8": "jpg", b"\x89P": "png", b"RI": "webp", b"GI": "gif", b"BM": "bmp"}
_MAX_REFERENCE = 64  # characters: a shorter image field is the index of the row that has the image


def read(files: Files, options: Options) -> list[Item]:
    return unique(files.questions, _items(files.questions, files))


def _items(path: Path, files: Files) -> Iterator[tuple[str, Item]]:
    rows = list(_rows(path))
    has_rotations = any(index >= ROTATED for _, index, _ in rows)
    addresses: dict[int, tuple[str, str]] = {}
    for place, index, row in rows:
        if len(row["image"]) > _MAX_REFERENCE:
            content = _image(path, place, row["image"])
            name = f"{index}.{_SUFFIXES.get(content[:2], 'img')}"
            addresses[index] = name, files.save(name, content)
    for place, index, row in rows:
        source = int(row["image"]) if row["image"].isdecimal() else index
        if source not in addresses:
            raise _fault(path, place, "has no image, and names no row that has one")
        # Some rows leave an option between others empty; the letters stay those of the file.
        there = [letter for letter in LETTERS[:8] if row.get(letter, "").strip() not in ("", "nan")]
        choices = [row[letter].strip() for letter in there]
        if row["answer"].strip() not in there:
            options = f"the options {', '.join(there)} (test rows have none)"
            raise _fault(path, place, f"has the answer {row['answer']!r}, but {options}")
        answer = there.index(row["answer"].strip())
        category = row["l2-category"].strip()
        for turn in range(1 if has_rotations else len(choices)):
            turned = choices[turn:] + choices[:turn]
            truth = {"group": index % ROTATED, "choices": turned, "correct": (answer - turn) % len(choices)}
            hint = row.get("hint", "").strip()
            asked = [hint] if hint not in ("", "nan") else []
            yield (
                place,
                Item(
                    id=f"{index}" if has_rotations else f"{index}/{turn}",
                    image=addresses[source][0],
                    uri=addresses[source][1],
                    question="\n".join([*asked, row["question"].strip(), options_text(turned)]),
                    style=AnswerStyle.LETTER,
                    truth=json.dumps(truth),
                    part=ABILITIES.get(category, category),
                ),
            )


def _rows(path: Path) -> Iterator[tuple[str, int, dict[str, str]]]:
    csv.field_size_limit(sys.maxsize)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t")
            if lacking := [name for name in _COLUMNS if name not in (reader.fieldnames or ())]:
                raise InputError(f"{path}: has no column {', '.join(lacking)}. MMBench's files are TSV with a header.")
            for number, row in enumerate(reader, 1):
                place = f"row {number}"
                if None in row or None in row.values():
                    raise _fault(path, place, "has more or fewer fields than the header")
                if not row["index"].strip().isdecimal():
                    raise _fault(path, place, f"needs 'index', a whole number, and has {row['index']!r}")
                yield place, int(row["index"]), row
    except OSError as error:
        raise InputError(f"{path}: cannot read the file ({error.strerror}). Check the path.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a TSV in UTF-8 ({error}). Is it the right file?") from error


def _image(path: Path, place: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise _fault(path, place, f"has an image that is not base64 ({error})") from error


def _fault(path: Path, place: str, what: str) -> InputError:
    return InputError(f"{path}: {place} {what}. Fix the file.")


def cases(answered: Answered, options: Options) -> Iterator[Case]:
    """What a judge is asked: which option an unmatched reply means."""
    for item, reply in answered:
        choices = json.loads(item.truth)["choices"]
        if reply.error is None and parse_letter(reply.text, choices) is None:
            yield Case(
                item.id,
                f"Here is a question with options, and somebody's answer to it. Say which option the answer means, "
                f"with its letter alone. If it means none of them, say {NO_OPTION}.\n\n{item.question}\n"
                f"{NO_OPTION}. none of these\n\nAnswer: {reply.text}\n\nLetter:",
                partial(_is_judged, len(choices)),
                NUM_TRIES,
            )


def _is_judged(num: int, text: str) -> bool:
    return _judged(text, num) is not None


def _judged(text: str, num: int) -> str | None:
    found = {letter for letter in re.findall(r"\b[A-Z]\b", text) if letter in (*LETTERS[:num], NO_OPTION)}
    return found.pop() if len(found) == 1 else None


def score(answered: Answered, options: Options) -> Scored:
    judged: dict[str, str] = options.get("judged", {})
    groups: dict[int, list[tuple[Item, bool]]] = defaultdict(list)
    scored = Scored([], counts={"unmatched": 0, "matched_by_judge": 0})
    for item, reply in answered:
        truth = json.loads(item.truth)
        choices = truth["choices"]
        chosen = parse_letter(reply.text, choices)
        if chosen is None:
            letter = _judged(judged.get(item.id, ""), len(choices))
            chosen = LETTERS.index(letter) if letter not in (None, NO_OPTION) else None
            scored.counts["unmatched" if chosen is None else "matched_by_judge"] += 1
        groups[truth["group"]].append((item, chosen == truth["correct"]))
    rows: dict[tuple[str, str], list[tuple[str, float, float]]] = {}
    for turns in groups.values():
        item = turns[0][0]
        is_right = float(all(right for _, right in turns))
        scored.item_scores[item.id] = is_right
        first = next((right for one, right in turns if _is_first(one)), False)
        for part in dict.fromkeys(("", item.part)):
            rows.setdefault((part, "circular"), []).append((item.image, is_right, 1.0))
            rows.setdefault((part, "vanilla"), []).append((item.image, float(first), 1.0))
    scored.metrics = [Metric(name, found, part) for (part, name), found in rows.items()]
    scored.counts["questions"] = len(groups)
    return scored


def _is_first(item: Item) -> bool:
    """In the order that the file gives the options in."""
    index, _, turn = item.id.partition("/")
    return turn == "0" if turn else int(index) < ROTATED
