"""The sentences of a Markdown text: without code, tables, headings and pictures."""

from __future__ import annotations

import re

_LEFT_OUT = (r"(?s)```.*?```", r"(?m)^\|.*$", r"(?m)^#.*$", r"!\[[^\]]*\]\([^)]*\)")


def sentence_lengths(text: str) -> list[int]:
    """Words of each sentence, fewest first; a span of code is one word."""
    for pattern in _LEFT_OUT:
        text = re.sub(pattern, "", text)
    text = re.sub(r"`[^`]*`", "code", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text))
    parts = re.split(r"\n\s*\n|^[-*] ", text, flags=re.MULTILINE)
    sentences = [one for part in parts for one in re.split(r"(?<=[.!?:])\s+", part.strip())]
    return sorted(len(one.split()) for one in sentences if len(one.split()) > 1)
