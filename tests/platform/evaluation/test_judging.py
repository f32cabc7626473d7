"""Replies of a judge are kept, and replayed without one."""

from __future__ import annotations

import asyncio
import json

import pytest

from vigc.platform.evaluation.judging import Case, Judgements
from vigc.platform.records import ConfigError, InputError

CASES = [Case(f"{n}", f"judge {n}", str.isdigit, num_tries=2) for n in range(3)]


def test_judgements_are_asked_once_and_replayed_without_a_judge(tmp_path):
    asked = []

    async def judge(prompt):
        asked.append(prompt)
        return "5" if prompt != "judge 1" or asked.count("judge 1") == 2 else "hm"

    file = tmp_path / "judgements.jsonl"
    first = asyncio.run(Judgements("j", [file], file).of(CASES, judge))
    assert first == {"0": "5", "1": "5", "2": "5"}
    assert len(asked) == 4
    assert asyncio.run(Judgements("j", [file], file).of(CASES, None)) == first
    with pytest.raises(ConfigError, match="3 of 3 judgements are not recorded"):
        asyncio.run(Judgements("another", [file], file).of(CASES, None))
    whole = file.read_text()
    file.write_text(whole + '{"key": "torn')
    assert asyncio.run(Judgements("j", [file], file).of(CASES, None)) == first
    assert file.read_text() == whole
    file.write_text("{}\n" + whole)
    with pytest.raises(InputError, match="line 1 is no judgement"):
        Judgements("j", [file], file)
    assert json.loads(whole.splitlines()[0])["judge"] == "j"


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\x0c", "\x1e"])
def test_whatever_a_judge_writes_can_be_read_again(tmp_path, mark):
    file = tmp_path / "judgements.jsonl"

    async def judge(prompt):
        return f"5{mark}and more"

    case = Case("one", "judge", lambda reply: True)
    first = asyncio.run(Judgements("j", [file], file).of([case], judge))
    whole = file.read_bytes()
    assert asyncio.run(Judgements("j", [file], file).of([case], None)) == first == {"one": f"5{mark}and more"}
    assert file.read_bytes() == whole
