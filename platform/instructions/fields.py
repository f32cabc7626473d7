"""What the readers share: JSON files, fields that are checked, answers with weights, where an image is."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vigc.platform.records import InputError, Instruction, Kind

COCO_DIGITS = 12
_COCO_SPLIT = re.compile(r"((?:train|val|test)20\d\d)/")
_KIND_OF_WORD = {
    "conv": Kind.CONVERSATION,
    "conversation": Kind.CONVERSATION,
    "desc": Kind.DETAIL,
    "detail": Kind.DETAIL,
    "comp": Kind.REASONING,
    "complex": Kind.REASONING,
    "reasoning": Kind.REASONING,
    "okvqa": Kind.KNOWLEDGE,
}


@dataclass(frozen=True, slots=True)
class Choice:
    """Which of the answers that were generated are learnt."""

    answers: Literal["vic", "vig"] = "vic"  # of a data set's conversations
    top_k: int | None = None  # the best of several answers to a question, by weight
    min_score: float | None = None  # questions whose best answer has no higher weight are left out


ALL = Choice()


@dataclass(frozen=True, slots=True)
class Origin:
    """A file or folder of instructions, and what the caller said about it."""

    path: Path
    images: str | None = None  # what image names lie below; None: the folder that the file is in
    kind: Kind | None = None  # of all instructions
    choice: Choice = ALL

    def image(self, name: str) -> str:
        """The image's address for every process, whatever folder that runs in."""
        if "://" in name or name.startswith("/"):
            return name
        folder = str(self.path.absolute().parent) if self.images is None else self.images.rstrip("/")
        if "://" not in folder:
            folder = str(Path(folder).expanduser().absolute())
        split = _COCO_SPLIT.match(name)
        if split and folder.endswith(f"/{split[1]}"):  # the folder of the split itself was named
            name = name[split.end() :]
        return f"{folder}/{name}"

    def fault(self, place: str, what: str) -> InputError:
        return InputError(f"{self.path}: {place} {what}. Fix the file.")

    def instruction(
        self, place: str, image: str, question: str, answers: Iterable[tuple[str, float]], kind: Kind
    ) -> Instruction:
        """Makes a record: texts without blanks around them, empty answers left out, equal ones added up.

        Raises:
            InputError: nothing is left of the question or of the answers, or a text is none.
        """
        weights: dict[str, float] = {}
        for answer, weight in answers:
            if (stripped := answer.strip()) and weight > 0:
                weights[stripped] = weights.get(stripped, 0.0) + weight
        question = question.strip()
        if not question:
            raise self.fault(place, "has an empty question")
        if not weights:
            raise self.fault(place, "has no answer that says anything")
        for text in (image, question, *weights):
            if not _is_text(text):
                raise self.fault(place, f"holds {_shown(text)}, which is no valid Unicode text")
        total = math.fsum(weights.values())
        return Instruction(
            image=self.image(image),
            question=question,
            answers=tuple(weights),
            weights=tuple(weight / total for weight in weights.values()),
            kind=self.kind or kind,
            place=f"{self.path}: {place}",
        )

    def records(self, content: Any, name: str = "record") -> Iterator[tuple[str, dict[str, Any]]]:
        """Each object of a list, with its place. Raises InputError for anything else."""
        if not isinstance(content, list):
            raise InputError(f"{self.path}: holds a {type(content).__name__}, not a list of records. Fix the file.")
        for number, record in enumerate(content):
            place = f"{name} {number}"
            if not isinstance(record, dict):
                raise self.fault(place, "is not an object")
            yield place, record

    def text(self, place: str, record: dict[str, Any], name: str) -> str:
        value = record.get(name)
        if not isinstance(value, str) or not value:
            raise self.fault(place, f"needs {name!r}, a text, and has {_shown(value)}")
        return value

    def texts(self, place: str, record: dict[str, Any], name: str) -> list[str]:
        value = record.get(name)
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            raise self.fault(place, f"needs {name!r}, a list of texts, and has {_shown(value)}")
        return value

    def number(self, place: str, record: dict[str, Any], name: str) -> int:
        """A whole number, which some files write as a text."""
        value = record.get(name)
        if isinstance(value, str) and value.isdecimal():
            return int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.fault(place, f"needs {name!r}, a whole number, and has {_shown(value)}")
        return value


def read_json(path: Path) -> Any:
    """Raises InputError when there is no such file, or it is not JSON."""
    try:
        with path.open("rb") as file:
            return json.load(file)
    except OSError as error:
        raise InputError(f"{path}: cannot read the file ({error.strerror}). Check the path.") from error
    except ValueError as error:  # a JSONDecodeError says line and column, a UnicodeDecodeError the byte
        raise InputError(f"{path}: not a JSON file ({error}). Is the file complete?") from error


def evenly(answers: Iterable[str]) -> Iterator[tuple[str, float]]:
    """Each answer once, as annotators gave them: what several of them said is drawn more often."""
    return ((answer, 1.0) for answer in answers)


def coco_2014(split: str, image_id: int) -> str:
    return f"{split}2014/COCO_{split}2014_{image_id:0{COCO_DIGITS}}.jpg"


def coco_2017(split: str, image_id: int) -> str:
    return f"{split}2017/{image_id:0{COCO_DIGITS}}.jpg"


def kind_in_name(name: str) -> Kind | None:
    """What the name of a published file says of its content, e.g. complex_reasoning_77k.json."""
    words = re.findall("[a-z]+", name.lower())
    found = {_KIND_OF_WORD[word] for word in words if word in _KIND_OF_WORD}
    return found.pop() if len(found) == 1 else None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _is_text(text: str) -> bool:
    """JSON can hold lone surrogates ("\\ud800"), which no tokenizer and no Arrow string can."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
