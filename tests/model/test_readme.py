"""References from the code to the model's README lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "model" / "README.md").read_text(encoding="utf-8")
CODE = {
    file: re.sub(r"\s*\n\s*#?\s*", " ", file.read_text(encoding="utf-8"))  # a reference may go over two lines
    for folder in ("platform", "jobs", "model", "serve")
    for file in sorted((ROOT / folder).rglob("*.py"))
}


def test_every_quirk_that_the_code_names_is_in_the_list() -> None:
    named = {quirk for text in CODE.values() for quirk in re.findall(r"\bQ\d{1,2}\b", text)}
    listed = re.findall(r"^\| (Q\d+) \|", README, re.MULTILINE)
    assert {"Q2", "Q10", "Q16"} <= named <= set(listed)
    assert listed == [f"Q{number}" for number in range(1, 24)]


def test_every_heading_that_the_code_names_is_there() -> None:
    headings = set(re.findall(r"^## (.+)$", README, re.MULTILINE))
    named = {
        heading
        for text in CODE.values()
        for group in re.findall(r'model/README\.md, ("[^"]+"(?: and "[^"]+")?)', text)
        for heading in re.findall(r'"([^"]+)"', group)
    }
    assert len(named) > 4
    assert named <= headings


def test_no_reference_leads_out_of_the_repository() -> None:
    assert [file.name for file, text in CODE.items() if re.search(r"\bfacts:? ?§|\bquirk Q|\bfacts: ", text)] == []
