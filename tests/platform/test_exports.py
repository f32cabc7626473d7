from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
from datasets import REQUEST, commit, draw, finished, records, row, source

from vigc.platform.exports import export, llava
from vigc.platform.layout import Block
from vigc.platform.records import ConfigError, StoreError
from vigc.platform.store import Store
from vigc.platform.summary import summarise, write_summary


def test_llava_holds_the_kept_conversations_of_readable_images_and_no_others(tmp_path):
    out = tmp_path / "deep" / "llava.json"
    assert export(finished(tmp_path / "out"), "llava", out) == 4  # colours 1 and 3 are kept, each in two kinds
    examples = json.loads(out.read_text())
    assert sorted(example["id"] for example in examples) == [
        "im1.png:conversation",
        "im1.png:detail",
        "im3.png:conversation",
        "im3.png:detail",
    ]
    assert examples[0] == {
        "id": "im1.png:conversation",
        "image": "im1.png",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat colour is im1.png?"},
            {"from": "gpt", "value": "The first pixel is 1-0-0."},
        ],
    }
    assert llava.validate(out) == []


def test_images_that_are_not_where_they_should_be_are_reported(tmp_path):
    export(finished(tmp_path / "out"), "llava", tmp_path / "x.json")
    draw(tmp_path / "im1.png", 1)
    assert llava.validate(tmp_path / "x.json", tmp_path) == [f"There is no image 'im3.png' in {tmp_path}."]


def test_an_image_token_in_the_text_does_not_become_a_second_image(tmp_path):
    store = Store(tmp_path / "out")
    pass_ = store.create_pass(REQUEST, source(1))
    made = row(records(1)[0])
    spoken = [replace(one, question="What is <image>?", answer="It is <image> é") for one in made.conversations]
    commit(pass_, [replace(made, conversations=spoken)], 0)
    export(store, "llava", tmp_path / "x.json")
    assert llava.validate(tmp_path / "x.json") == []
    assert "é" in (tmp_path / "x.json").read_text(encoding="utf-8")


def test_an_empty_export_is_still_json(tmp_path):
    assert export(finished(tmp_path / "out", num=2, failed=2), "llava", tmp_path / "x.json") == 0
    assert json.loads((tmp_path / "x.json").read_text()) == []


GOOD = {
    "id": "1",
    "image": "a.png",
    "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "That."}],
}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[", "not JSON"),
        ("{}", "not a list"),
        (json.dumps([3]), "Example 0: is not an object"),
        (json.dumps([GOOD, GOOD]), "'1' comes 2 times"),
        (json.dumps([{**GOOD, "image": ""}]), "has no 'image'"),
        (json.dumps([{**GOOD, "conversations": GOOD["conversations"][:1]}]), "even number of turns"),
        (json.dumps([{**GOOD, "conversations": GOOD["conversations"][::-1]}]), "turn 0 is from 'gpt'"),
        (json.dumps([GOOD]).replace("<image>", ""), "turn 0 holds <image> 0 times"),
        (json.dumps([GOOD]).replace("That.", "<image> That."), "turn 1 holds <image> 1 times"),
        (json.dumps([GOOD]).replace("That.", " "), "turn 1 says nothing"),
    ],
)
def test_validation_finds_what_would_trip_the_trainer(tmp_path, content, problem):
    path = tmp_path / "x.json"
    path.write_text(json.dumps([GOOD]))
    assert llava.validate(path) == []
    path.write_text(content)
    assert any(problem in found for found in llava.validate(path))


def test_an_export_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    store = finished(tmp_path / "out")
    (pass_,) = store.passes()
    pass_.folder.write(pass_.ledger().blocks[Block(0, 1)].file, b"torn")
    folder = tmp_path / "exports"
    folder.mkdir()
    (folder / "x.json").write_text("old")
    with pytest.raises(StoreError):
        export(store, "llava", folder / "x.json")
    assert os.listdir(folder) == ["x.json"]
    assert (folder / "x.json").read_text() == "old"


def test_an_unknown_format_and_a_missing_data_set_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="Use one of: llava"):
        export(finished(tmp_path / "out"), "csv", tmp_path / "x")
    with pytest.raises(StoreError, match="holds no data set"):
        export(Store(tmp_path / "nothing"), "llava", tmp_path / "x")


def test_the_summary_counts_rows_reasons_lengths_and_changes(tmp_path):
    store = finished(tmp_path / "out")
    found = summarise(store)
    by_kind = found.pop("kinds")
    assert found == {
        "num_passes": 1,
        "num_requested": 6,
        "num_rows": 6,
        "num_ok": 5,
        "num_failed": 1,
        "failed_by_reason": {"truncated": 1},
        "num_kept": 4,
        "num_rejected": 6,
        "num_tokens": 120,
        "hallucination": None,
        "verdicts": [],
    }
    assert by_kind["detail"] == {
        "num_kept": 2,
        "num_rejected": 3,
        "rejected_by_reason": {"even": 3},
        "mean_words_vig": 9.0,
        "mean_words_final": 5.0,
        "share_changed_by_vic": 1.0,
        "num_tokens": 60,
    }
    assert write_summary(store)["kinds"] == json.loads(store.folder.read("summary.json"))["kinds"] == by_kind
