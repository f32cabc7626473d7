"""LLaVA-Instruct-150K and files of its form: lists of {id, image, conversations: [{from, value}]} (facts §3.2).

Conversations of several turns become one record a turn, as VIGC trains on them. The kind is read off the file's name;
in the merged file off the record: several turns are a conversation, one that asks for a description is a detail.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vigc.platform.records import InputError, Instruction, Kind

_BY_NAME = {"conversation": Kind.CONVERSATION, "detail": Kind.DETAIL, "complex_reasoning": Kind.REASONING}
_MARK = "<image>"
_ASKS_TO_DESCRIBE = re.compile(
    r"\b(describ\w+|descripti\w+|explain the (image|picture|visual)|analy[sz]e the|caption)", re.I
)


def read_llava(file: Path, images: str | None, kind: Kind | None) -> Iterator[Instruction]:
    """Raises InputError with file and record."""
    try:
        records = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not readable as JSON ({error}). Get the file again.") from error
    if not isinstance(records, list) or not records:
        raise InputError(f"{file}: must be a list of records of LLaVA's form, and hold at least one.")
    root = Path(images).expanduser() if images else file.parent
    of_file = kind or next((k for name, k in _BY_NAME.items() if name in file.stem), None)
    for number, record in enumerate(records):
        place = f"{file}: record {number}"
        image, turns = _checked(record, place)
        of_record = of_file or _kind(turns)
        for asked, answered in zip(turns[::2], turns[1::2], strict=True):
            yield Instruction(str(root / image), asked, (answered,), (1.0,), of_record, place)


def _kind(turns: list[str]) -> Kind:
    if len(turns) > 2:
        return Kind.CONVERSATION
    return Kind.DETAIL if _ASKS_TO_DESCRIBE.search(turns[0]) else Kind.REASONING


def _checked(record: Any, place: str) -> tuple[str, list[str]]:
    """The image's name and the texts in turn, human first."""
    if not isinstance(record, dict) or not isinstance(record.get("image"), str) or not record["image"]:
        raise InputError(f"{place}: `image` must be the name of a picture.")
    spoken = record.get("conversations")
    if not isinstance(spoken, list) or not spoken or len(spoken) % 2:
        raise InputError(f"{place}: `conversations` must hold questions and answers in turn.")
    turns = []
    for position, part in enumerate(spoken):
        who = ("human", "gpt")[position % 2]
        if not isinstance(part, dict) or part.get("from") != who or not isinstance(part.get("value"), str):
            raise InputError(f"{place}: turn {position} must be {{from: {who}, value: a text}}.")
        text = part["value"].replace(_MARK, "").strip() if who == "human" else part["value"].strip()
        if not text:
            raise InputError(f"{place}: turn {position} is empty.")
        turns.append(text)
    return record["image"], turns
