"""Prompt packs say where they are wrong."""

from pathlib import Path

import pytest

from vigc.model.prompts import DEFAULT, load_pack
from vigc.platform.records import ConfigError, Kind

GOOD = """name: mine
question_tag: "Q:"
answer_tag: "A:"
kinds:
  detail:
    instruction: Describe.
    paraphrases: [Tell me.]
"""


def test_the_default_pack_holds_every_kind() -> None:
    pack = load_pack()
    assert set(pack.kinds) == set(Kind)
    assert pack.hash == load_pack(DEFAULT).hash


def test_a_users_pack_replaces_words_and_tags(tmp_path: Path) -> None:
    file = tmp_path / "pack.yaml"
    file.write_text(GOOD)
    pack = load_pack(file)
    assert pack.vig_prompt(Kind.DETAIL) == "Describe."
    assert pack.vic_prompt("Describe.", "What?") == "Describe. Q: What? A:"
    assert pack.hash != load_pack().hash
    with pytest.raises(ConfigError, match="no prompts for the kind 'reasoning'"):
        pack.kind(Kind.REASONING)


@pytest.mark.parametrize(
    ("bad", "line", "problem"),
    [
        (GOOD.replace("name:", "nom:"), 1, "unknown key 'nom'"),
        (GOOD.replace("Describe.", "[1]"), 6, "detail.instruction must be a text"),
        (GOOD.replace("    instruction: Describe.\n", ""), 6, "lacks instruction"),
        (GOOD.replace("detail:", "details:"), 5, "unknown key 'details'"),
        (GOOD.replace("[Tell me.]", "Tell me."), 7, "must be a list"),
        (GOOD + "  knowledge:\n    instruction: Ask.\n    first_words: {What: 0}\n", 10, "above 0"),
        (GOOD + "kinds: {}\n", 8, "stands twice"),
        (GOOD.replace("kinds:", "short_answer: no hole\nkinds:"), 4, "must hold {question}"),
        (GOOD.replace('"Q:"', '"Q:'), 3, "not valid YAML"),
        ("", 1, "must be a mapping"),
    ],
)
def test_a_bad_pack_is_refused_with_its_line(tmp_path: Path, bad: str, line: int, problem: str) -> None:
    file = tmp_path / "pack.yaml"
    file.write_text(bad)
    with pytest.raises(ConfigError) as caught:
        load_pack(file)
    assert problem in str(caught.value)
    assert f"{file}:{line}:" in str(caught.value)


def test_a_missing_pack_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_pack(tmp_path / "none.yaml")
