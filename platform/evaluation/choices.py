"""Options with letters: how they stand in a question, and which one a reply means.

The ladder of MMBench's evaluation (arXiv 2307.06281) without its language model: one letter alone among the reply's
words; else the text of exactly one option. What neither finds is counted as unmatched.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MARKS = re.compile(r"[.()\[\],:;!*#{}\"'?<>]")
MAX_WORDS_WITH_ARTICLE = 3  # in a longer reply a single "A" is rather an article


def options_text(choices: Sequence[str]) -> str:
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))


def parse_letter(reply: str, choices: Sequence[str]) -> int | None:
    """The number of the option; None where the reply settles on none."""
    letter = _letter(reply, len(choices))
    return letter if letter is not None else _text(reply, choices)


def _letter(reply: str, num: int) -> int | None:
    words = _MARKS.sub(" ", reply).split()
    found = {word for word in words if word in LETTERS[:num] and len(word) == 1}
    if len(found) != 1:
        return None
    (letter,) = found
    if letter == "A" and len(words) > MAX_WORDS_WITH_ARTICLE and not re.search(r"\(A\)|\bA[.):]|\bA$", reply.strip()):
        return None
    return LETTERS.index(letter)


def _text(reply: str, choices: Sequence[str]) -> int | None:
    said = reply.lower()
    found = [number for number, choice in enumerate(choices) if choice and choice.lower() in said]
    return found[0] if len(found) == 1 else None
