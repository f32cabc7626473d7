"""Where a sentence ends.

VIC keeps one sentence per step, so a wrong cut changes the data. The paper's code cuts at the first ".", which breaks
"3.5 m" and "Mr. Li" and knows no "!" or "?"; SENTENCE is the default, REFERENCE_SENTENCE reproduces that code
(model/README.md, Q2). Text arrives token by token, and both rules answer only when no later text could change the
answer, so cutting early and cutting the whole text afterwards give the same sentence.
"""

from __future__ import annotations

import re
from enum import StrEnum


class Unit(StrEnum):
    """How much of the answer one VIC step keeps."""

    SENTENCE = "sentence"
    REFERENCE_SENTENCE = "reference_sentence"  # up to the first "."
    PARAGRAPH = "paragraph"  # up to the first blank line
    WHOLE = "whole"


# An end mark, what may close behind it, a blank, and then the start of the next sentence.
_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s)|[。！？]+[”’）」』]*")
_NEVER_LAST = {"mr", "mrs", "ms", "dr", "prof", "st", "vs", "e.g", "i.e", "cf", "approx", "fig"}
_SOMETIMES_LAST = {"etc", "no", "inc", "ltd", "co", "al", "jr", "sr", "u.s", "u.k", "a.m", "p.m", "oz", "ft", "in"}
_PARAGRAPH = re.compile(r"\n\s*\n")
# A text without any of these holds no end.
END_MARKS = {Unit.SENTENCE: ".!?…。！？", Unit.REFERENCE_SENTENCE: ".", Unit.PARAGRAPH: "\n", Unit.WHOLE: ""}


def find_end(text: str, unit: Unit, *, final: bool) -> int | None:
    """Index just behind the first unit of `text`; None while that is undecided or, with `final`, where the text ends
    without an end mark.

    `final` says that no more text will come. Once an index is returned, text appended later cannot change it.
    """
    if unit is Unit.WHOLE:
        return len(text) if final and text.strip() else None
    if unit is Unit.REFERENCE_SENTENCE:
        dot = text.find(".")
        return dot + 1 if dot >= 0 else None
    start = len(text) - len(text.lstrip())
    if unit is Unit.PARAGRAPH:
        # The blank line ends where the next paragraph begins, which must have been seen.
        match = _PARAGRAPH.search(text, start)
        if match and (final or text[match.end() :].strip()):
            return match.start()
        return len(text.rstrip()) if final and text.strip() else None
    return _sentence_end(text, start, final)


def _sentence_end(text: str, start: int, final: bool) -> int | None:
    for match in _END.finditer(text, start):
        after = text[match.end() :].lstrip()
        if not after:
            break  # what follows is not known yet
        if not _is_inside(text, match, after[0]):
            return match.end()
    stripped = text.rstrip()
    if final and re.search(r"[.!?…。！？][\"'”’)\]）」』]*$", stripped[start:]):
        return len(stripped)
    return None


def _is_inside(text: str, match: re.Match[str], following: str) -> bool:
    """Whether the mark belongs to an abbreviation, an initial or an ellipsis in mid-sentence instead of ending one."""
    if following.islower():
        return True
    if not match.group().startswith(".") or match.group().startswith(".."):
        return False
    word = re.split(r"[\s(\"'“‘]", text[: match.start()])[-1].lower()
    if word in _NEVER_LAST or (len(word) == 1 and word.isalpha() and word != "i"):
        return True
    if word in _SOMETIMES_LAST:
        return not following.isupper()
    return (
        word.isdigit() and re.search(r"(?:^|\n)\s*\d+$", text[: match.start()]) is not None
    )  # "1. First": a list number


def split_sentences(text: str, unit: Unit = Unit.SENTENCE) -> list[str]:
    """The units of a finished text, blanks stripped; a tail without an end mark is the last one."""
    units: list[str] = []
    rest = text
    while (end := find_end(rest, unit, final=True)) is not None:
        units.append(rest[:end].strip())
        rest = rest[end:]
    if rest.strip():
        units.append(rest.strip())
    return [u for u in units if u]
