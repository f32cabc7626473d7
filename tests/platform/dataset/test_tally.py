"""A file's tally says of its rows what reading them would."""

from __future__ import annotations

import json
from dataclasses import replace

import pyarrow as pa

from vigc.platform.dataset.tally import Mentions, Tally, count
from vigc.platform.records import Conversation, Kind, Row, RowError, RowStatus, Sentence, Verdict
from vigc.platform.schema import ROW, to_dict


def said(named: list[str], absent: list[str] | None) -> list[Sentence]:
    return [Sentence("x", objects_named=named, objects_absent=absent)]


SPOKEN = Conversation(
    Kind.DETAIL,
    "Describe it.",
    "What is there?",
    "A cat and a dog and a dog.",
    None,
    "A cat.",
    sentences=said(["cat"], []),
    vig_sentences=said(["cat", "dog", "dog"], ["dog", "dog"]),
    num_tokens=30,
)
GOOD = Row("a.jpg", "a.jpg", 4, 4, None, None, RowStatus.OK, None, None, None, [SPOKEN], "001", ["cat"])
REJECTED = replace(GOOD, conversations=[replace(SPOKEN, status=Verdict.REJECTED, reasons=["empty"])])
UNANNOTATED = replace(
    GOOD, objects_present=None, conversations=[replace(SPOKEN, sentences=said(["cat"], None), num_tokens=5)]
)
BROKEN = replace(GOOD, status=RowStatus.FAILED, error=RowError("truncated", "?"), conversations=[])


def of(*rows: Row) -> Tally:
    return count(pa.Table.from_pylist([to_dict(row) for row in rows], ROW))


def test_rows_tokens_reasons_and_mentions_before_and_after_are_counted() -> None:
    found = of(GOOD, GOOD, REJECTED, UNANNOTATED, BROKEN)
    assert (found.rows, found.failed, found.kept, found.tokens) == (5, 1, 3, 95)
    assert found.failed_by_reason == {"truncated": 1}
    assert (found.vig, found.vic) == (Mentions(6, 4), Mentions(2, 0))  # rejected and unannotated ones say nothing
    assert (found.vig.chair_i, found.vic.chair_i, Mentions().chair_i) == (4 / 6, 0.0, None)


def test_answers_that_vig_never_gave_are_not_counted_as_its_own() -> None:
    without = replace(GOOD, conversations=[replace(SPOKEN, vig_answer="", vig_sentences=said(["dog"], ["dog"]))])
    assert of(without).vig == Mentions()


def test_the_tally_of_parts_adds_up_to_that_of_the_whole_and_survives_json() -> None:
    whole = of(GOOD, REJECTED, UNANNOTATED, BROKEN, BROKEN)
    assert of(GOOD, REJECTED) + of(UNANNOTATED, BROKEN) + of(BROKEN) == whole
    assert Tally.from_json(whole.as_json()) == whole
    assert of(GOOD) + Tally() == of(GOOD)


def test_a_file_from_before_tokens_were_counted_still_has_a_tally() -> None:
    assert Tally.from_json(json.dumps({"rows": 3, "failed": 1, "kept": 2})) == Tally(3, 1, 2)
