"""The lines of text files, other people's and our own: UTF-8, with or without a byte order mark.

A line ends at a newline and nowhere else. `str.splitlines` would also end one at U+2028, U+0085 or a form feed, which
stand inside a text that a model has written.
"""

from __future__ import annotations

from pathlib import Path


def lines_of(text: str) -> list[str]:
    """Without their ends, which may be Windows'."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines if lines[-1] else lines[:-1]


def read_text(file: Path) -> str:
    """Raises OSError, or UnicodeDecodeError."""
    return file.read_bytes().decode("utf-8-sig")


def read_lines(file: Path) -> list[str]:
    """Raises OSError, or UnicodeDecodeError."""
    return lines_of(read_text(file))
