"""Files around the code that no program of ours reads: they parse, and what they name is there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from prose import sentence_lengths

import vigc
from vigc.jobs.cli import ALL_VERBS

ROOT = Path(__file__).parents[1]
CONTRIBUTING = ROOT / ".github" / "CONTRIBUTING.md"
FOLDERS = ("platform/", "model/", "jobs/", "serve/", "cluster/", "tests/", "vigc/")


def read_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))


def test_every_path_that_contributors_are_sent_to_is_there() -> None:
    text = CONTRIBUTING.read_text(encoding="utf-8")
    words = [
        word
        for span in re.findall(r"`([^`\n]+)`", text) + re.findall(r"```\n(.*?)```", text, re.DOTALL)
        for word in span.split()
    ]
    paths = {
        word
        for word in words
        if word.startswith(FOLDERS) or word in ("pyproject.toml", "constraints.txt", "CHANGELOG.md")
    }
    assert len(paths) > 30
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []


def test_every_command_that_contributors_are_given_is_there() -> None:
    text = CONTRIBUTING.read_text(encoding="utf-8")
    made, said = set(re.findall(r"\bmake ([a-z-]+)", text)), set(re.findall(r"`vigc ([a-z]+)", text))
    assert {"setup", "check", "test", "test-all"} <= made
    assert made <= make_targets()
    assert said <= {verb.split()[0] for verb in ALL_VERBS}


def test_the_checks_at_a_commit_are_those_of_make_check() -> None:
    (repo,) = read_yaml(".pre-commit-config.yaml")["repos"]
    assert repo["repo"] == "local"
    made = (ROOT / "Makefile").read_text(encoding="utf-8").replace("$(BIN)", ".venv/bin").replace(" .\n", "\n")
    entries = [hook["entry"].removesuffix(" --force-exclude") for hook in repo["hooks"]]
    assert entries == [".venv/bin/ruff check", ".venv/bin/ruff format --check", ".venv/bin/mypy -p vigc"]
    assert [entry for entry in entries if f"\t@{entry}\n" not in made] == []
    assert {hook["language"] for hook in repo["hooks"]} == {"system"}


def test_the_workflow_runs_what_the_project_is_checked_with() -> None:
    workflow = read_yaml(".github/workflows/ci.yml")
    (job,) = workflow["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands[-1].split() == ["make", "--keep-going", "check", "test", "test-all"]
    assert set(commands[-1].split()[2:]) <= make_targets()
    versions = [step["with"]["python-version"] for step in job["steps"] if "python-version" in step.get("with", {})]
    assert versions == [tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].lstrip(">=")]


def test_the_citation_is_of_this_version_and_names_the_paper() -> None:
    citation = read_yaml("CITATION.cff")
    # What the schema of the Citation File Format 1.2.0 asks for.
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert (str(citation["cff-version"]), citation["version"]) == ("1.2.0", vigc.__version__)
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= paper.keys()
    assert [one["value"] for one in paper["identifiers"]] == ["arXiv:2308.12714"]


def test_the_newest_release_of_the_changelog_is_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d{2}-\d{2}))?$", text, flags=re.MULTILINE)
    assert headings[0] == ("Unreleased", "")
    version, date = headings[1]
    assert (version, date) == (vigc.__version__, str(read_yaml("CITATION.cff")["date-released"]))
    assert set(re.findall(r"`vigc ([a-z]+)", text)) <= {verb.split()[0] for verb in ALL_VERBS}


@pytest.mark.parametrize("name", [".github/CONTRIBUTING.md", "CHANGELOG.md"])
def test_sentences_are_short_enough_to_be_read_once(name: str) -> None:
    lengths = sentence_lengths((ROOT / name).read_text(encoding="utf-8"))
    assert lengths[len(lengths) // 2] <= 16
    assert lengths[len(lengths) * 9 // 10] <= 28
