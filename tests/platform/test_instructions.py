"""Instruction data as it lies: LLaVA's files, and directories of `vigc generate`."""

from __future__ import annotations

import json

import pytest
from datasets import finished

from vigc.platform.instructions import open_instructions
from vigc.platform.instructions.sides import mentions_sides
from vigc.platform.records import InputError, Kind


def write(folder, name, *conversations):
    records = [
        {"id": str(i), "image": f"{i:012d}.jpg", "conversations": list(turns)} for i, turns in enumerate(conversations)
    ]
    (folder / name).write_text(json.dumps(records))
    return str(folder / name)


def said(*turns):
    return [{"from": ("human", "gpt")[i % 2], "value": turn} for i, turn in enumerate(turns)]


def test_every_turn_is_a_record_and_the_image_mark_goes(tmp_path):
    file = write(
        tmp_path,
        "conversation_58k.json",
        said("<image>\nWho?", "A man.", "Where?", "At home."),
        said("What?\n<image>", "A cat."),
    )
    found = list(open_instructions(file, images="photos"))
    assert [(r.question, r.answers) for r in found] == [
        ("Who?", ("A man.",)),
        ("Where?", ("At home.",)),
        ("What?", ("A cat.",)),
    ]
    assert {r.kind for r in found} == {Kind.CONVERSATION}
    assert found[2].image == "photos/000000000001.jpg"
    assert found[2].place == f"{file}: record 1"


def test_the_kind_is_read_off_the_name_or_the_record_or_given(tmp_path):
    merged = write(
        tmp_path,
        "llava_instruct_150k.json",
        said("Hm?", "a", "b", "c"),
        said("Describe the following image.", "x"),
        said("Why is he glad?", "y"),
    )
    assert [r.kind for r in open_instructions(merged)] == [Kind.CONVERSATION] * 2 + [Kind.DETAIL, Kind.REASONING]
    assert {r.kind for r in open_instructions(merged, kind=Kind.KNOWLEDGE)} == {Kind.KNOWLEDGE}
    named = write(tmp_path, "complex_reasoning_77k.json", said("Describe it.", "x"))
    assert [r.kind for r in open_instructions(named)] == [Kind.REASONING]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[{]", "not readable as JSON"),
        ("{}", "must be a list"),
        ("[]", "hold at least one"),
        ('[{"conversations": []}]', "record 0: `image` must be the name"),
        ('[{"image": "a.jpg", "conversations": [{"from": "human", "value": "x"}]}]', "record 0: .*in turn"),
        (
            '[{"image": "a.jpg", "conversations": [{"from": "gpt", "value": "x"}, {"from": "human", "value": "y"}]}]',
            "turn 0 must be {from: human",
        ),
        (
            '[{"image": "a", "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "y"}]}]',
            "turn 0 is empty",
        ),
    ],
)
def test_a_wrong_record_is_named(tmp_path, content, told):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(InputError, match=told):
        list(open_instructions(str(tmp_path / "bad.json")))


def test_a_generated_dataset_gives_its_kept_conversations(tmp_path):
    store = finished(tmp_path / "data", 3)
    found = list(open_instructions(str(tmp_path / "data")))
    kept = [c for r in store.rows() for c in r["conversations"] if c["status"] == "kept"]
    assert kept
    assert [(r.question, r.answers[0]) for r in found] == [(c["question"], c["answer"]) for c in kept]


def test_sides_are_told_from_other_lefts_and_rights():
    for text in (
        "on the left",
        "left of the car",
        "a right-hand glove",
        "the leftmost cup",
        "He turns left.",
        "in the upper left",
    ):
        assert mentions_sides(text), text
    for text in (
        "food left over",
        "right away",
        "all right.",
        "that's right.",
        "the right answer",
        "she left the room",
        "right now",
    ):
        assert not mentions_sides(text), text
