"""Lines end at a newline, whatever else stands in a text."""

from __future__ import annotations

from pathlib import Path

import pytest

from vigc.platform.text_lines import lines_of, read_lines


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("one", ["one"]),
        ("one\r\ntwo\n", ["one", "two"]),
        ("one\n\nthree", ["one", "", "three"]),
        ("a\u2028b\u0085c\x0cd\x1ee\n", ["a\u2028b\u0085c\x0cd\x1ee"]),
    ],
)
def test_a_line_ends_at_a_newline_and_nowhere_else(text: str, lines: list[str]) -> None:
    assert lines_of(text) == lines


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_bytes(b"\xef\xbb\xbfone\r\ntwo")
    assert read_lines(file) == ["one", "two"]
