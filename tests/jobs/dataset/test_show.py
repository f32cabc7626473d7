from __future__ import annotations

import io
import json

import pytest
from datasets import finished
from rich.console import Console

from vigc.jobs.dataset.show import marked, show_rows


def test_what_vic_changed_is_marked_on_both_sides_and_the_rest_is_not():
    vig, vic = marked("A red car. There is a dog.", "A blue car.", colours=False)

    assert vig.plain == "A [-red-] car. [-There is a dog.-]"
    assert vic.plain == "A {+blue+} car."


def test_equal_answers_carry_no_mark():
    vig, vic = marked("A red car. ", "A red car.", colours=False)

    assert (vig.plain.strip(), vic.plain) == ("A red car.", "A red car.")


def test_with_colours_the_text_stays_as_it_is():
    vig, vic = marked("A red car.", "A blue car.", colours=True)

    assert (vig.plain, vic.plain) == ("A red car.", "A blue car.")
    assert [(span.start, span.end, span.style) for span in vig.spans] == [(2, 6, "red strike")]
    assert [span.style for span in vic.spans] == ["bold green"]


def test_answers_with_brackets_are_text_not_markup(tmp_path):
    rows = list(finished(tmp_path / "data").rows())
    row = next(row for row in rows if row["conversations"])
    row["conversations"][0] |= {"question": "What is [bold]?", "vig_answer": "[red]a[/red]", "answer": "[red]a[/red]"}
    console = Console(file=io.StringIO(), width=100)

    show_rows(console, [row], None)

    assert "What is [bold]?" in console.file.getvalue()
    assert console.file.getvalue().count("[red]a[/red]") == 2


def test_show_puts_both_answers_in_one_line(vigc_here, tmp_path):
    finished(tmp_path / "data", num=4, failed=0)

    text = vigc_here("show", tmp_path / "data", "--image-id", "im3.png", "--kind", "detail").out

    assert text.count("What colour is im3.png?") == 1
    assert "The first pixel is 3-0-0. [-There" in text
    line = next(line for line in text.splitlines() if "first pixel" in line)
    assert line.count("The first pixel is 3-0-0.") == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {"im0.png": ["conversation", "detail"], "im1.png": ["conversation", "detail"]}),
        (["--kind", "detail"], {"im0.png": ["detail"], "im1.png": ["detail"]}),
        (["--rejected"], {"im0.png": ["conversation", "detail"]}),  # even colours are rejected
        (["--failed"], {"im2.png": []}),
        (["--image-id", "im2.png"], {"im2.png": []}),
        (["--limit", "1"], {"im0.png": ["conversation", "detail"]}),
    ],
)
def test_show_selects(vigc_here, tmp_path, arguments, expected):
    finished(tmp_path / "data", num=3, failed=1)

    lines = vigc_here("show", tmp_path / "data", "--json", *arguments).out.splitlines()

    rows = [json.loads(line) for line in lines]
    assert {row["image_id"]: [c["kind"] for c in row["conversations"]] for row in rows} == expected


def test_a_failed_row_says_why(vigc_here, tmp_path):
    finished(tmp_path / "data", num=3, failed=1)

    assert "truncated: because" in vigc_here("show", tmp_path / "data", "--failed").out


def test_an_image_that_is_not_there_is_an_error(vigc_here, tmp_path):
    finished(tmp_path / "data")

    result = vigc_here("show", tmp_path / "data", "--image-id", "im77.png")

    assert result.code == 2
    assert "no row for the image 'im77.png'" in result.err
