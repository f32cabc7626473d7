"""What readers meet first: every link leads somewhere, the front page is short, and its words are easy."""

from __future__ import annotations

import re
import statistics
import subprocess
from pathlib import Path

import pytest
from prose import sentence_lengths

import vigc
from vigc.jobs.cli import ALL_VERBS

ROOT = Path(__file__).parents[1]
FRONT = (ROOT / "README.md").read_text(encoding="utf-8")
LISTED = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
PAGES = [ROOT / name for name in LISTED.split() if not name.startswith("platform/exports/templates/")]


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"(?s)```.*?```", "", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_front_page_is_short() -> None:
    assert FRONT.count("\n") <= 150


@pytest.mark.parametrize("folder", [".", "jobs", "serve", "platform", "model", "cluster", "tests/benchmarks"])
def test_sentences_can_be_read_at_once(folder: str) -> None:
    lengths = sentence_lengths((ROOT / folder / "README.md").read_text(encoding="utf-8"))
    assert len(lengths) > 10
    assert statistics.median(lengths) <= 16
    assert lengths[int(0.9 * len(lengths))] <= 28


def test_the_front_page_names_every_verb_and_no_other() -> None:
    (table,) = re.findall(r"## The verbs\n\n(.*?)\n\n", FRONT, re.DOTALL)
    named = set(re.findall(r"`([a-z]+)`", table))
    assert named == {verb.split()[0] for verb in ALL_VERBS}


def test_the_front_page_s_python_names_are_there() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", FRONT, re.DOTALL)
    names = set(re.findall(r"\bvigc\.(\w+)", code))
    assert names == {"generate", "load_engine", "converse"}
    assert all(hasattr(vigc, name) for name in names)
    methods = set(re.findall(r"\bdata\.(\w+)|\)\.(\w+)\(\"llava", code))
    assert all(hasattr(vigc.Dataset, name) for pair in methods for name in pair if name)
