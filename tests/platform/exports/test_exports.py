from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from datasets import REQUEST, commit, finished, records, row, source

from vigc.platform.dataset.layout import Block
from vigc.platform.dataset.store import Store
from vigc.platform.exports import MARKER, Options, export
from vigc.platform.exports.validate import validate
from vigc.platform.records import ConfigError, StoreError
from vigc.platform.report.summary import summarise, write_summary
from vigc.platform.sources.base import Records


def test_llava_holds_the_kept_conversations_of_readable_images_and_no_others(tmp_path):
    out = tmp_path / "deep" / "llava.json"
    assert export(finished(tmp_path / "out"), "llava", out).num_examples == 4  # colours 1 and 3 are kept, in two kinds
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
    assert validate(str(out)).is_ok


def test_several_kinds_of_an_image_become_one_conversation_with_one_image(tmp_path):
    store = finished(tmp_path / "out")
    assert export(store, "llava", tmp_path / "x.json", Options(multi_turn=True)).num_examples == 2
    first, second = json.loads((tmp_path / "x.json").read_text())
    assert (first["id"], second["id"]) == ("im1.png", "im3.png")
    assert [turn["from"] for turn in first["conversations"]] == ["human", "gpt"] * 2
    assert json.dumps(first).count("<image>") == 1
    assert validate(str(tmp_path / "x.json")).is_ok


def test_kinds_of_several_passes_become_one_conversation_too(tmp_path):
    store = Store(tmp_path / "out")
    for number, kind in enumerate(("detail", "conversation")):
        pass_ = store.create_pass(REQUEST | {"kinds": [kind], "seed": number}, source(2), rows_per_block=2)
        made = [row(record) for record in records(2)]
        spoken = [[one for one in each.conversations if one.kind == kind] for each in made]
        commit(pass_, [replace(one, conversations=kept) for one, kept in zip(made, spoken, strict=True)], 0)
    assert export(store, "sharegpt", tmp_path / "x.json", Options(multi_turn=True)).num_examples == 2
    for example in json.loads((tmp_path / "x.json").read_text()):
        assert len(example["conversations"]) == 4
        assert example["images"] == [example["id"]]


def test_an_image_token_in_the_text_does_not_become_a_second_image(tmp_path):
    store = Store(tmp_path / "out")
    pass_ = store.create_pass(REQUEST, source(1))
    made = row(records(1)[0])
    spoken = [replace(one, question="What is <image>?", answer="It is <image> é") for one in made.conversations]
    commit(pass_, [replace(made, conversations=spoken)], 0)
    for format, file in (("llava", "x.json"), ("openai", "x.jsonl")):
        export(store, format, tmp_path / file)
        assert validate(str(tmp_path / file)).is_ok
        assert "é" in (tmp_path / file).read_text(encoding="utf-8")


def test_a_kept_conversation_that_says_nothing_is_left_out_and_counted(tmp_path):
    store = Store(tmp_path / "out")
    pass_ = store.create_pass(REQUEST, source(1))
    made = row(records(1)[0])
    detail, other = made.conversations
    commit(pass_, [replace(made, conversations=[replace(detail, answer=" <image> "), other])], 0)
    done = export(store, "llava", tmp_path / "x.json")
    assert (done.num_examples, done.left_out) == (1, {"without a question or an answer": 1})


@pytest.mark.parametrize("format", ["llava", "sharegpt"])
def test_an_empty_export_is_still_json(tmp_path, format):
    assert export(finished(tmp_path / "out", num=2, failed=2), format, tmp_path / "x.json").num_examples == 0
    assert json.loads((tmp_path / "x.json").read_text()) == []


@pytest.mark.parametrize("format", ["llava", "openai", "parquet"])
def test_an_export_that_fails_leaves_the_old_file_and_no_other(tmp_path, format):
    store = finished(tmp_path / "out")
    (pass_,) = store.passes()
    pass_.folder.write(pass_.ledger().blocks[Block(0, 1)].file, b"torn")
    folder = tmp_path / "exports"
    folder.mkdir()
    (folder / "x.json").write_text("old")
    with pytest.raises(StoreError):
        export(store, format, folder / "x.json")
    assert os.listdir(folder) == ["x.json"]
    assert (folder / "x.json").read_text() == "old"


def test_a_folder_that_fails_is_not_there_and_an_earlier_export_stays(tmp_path):
    store = finished(tmp_path / "out")
    export(store, "huggingface", tmp_path / "hf")
    before = sorted(os.listdir(tmp_path / "hf"))
    (pass_,) = store.passes()
    pass_.folder.write(pass_.ledger().blocks[Block(0, 1)].file, b"torn")
    for name in ("hf", "new"):
        with pytest.raises(StoreError):
            export(store, "webdataset", tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["hf", "out"]
    assert sorted(os.listdir(tmp_path / "hf")) == before == ["README.md", "data", MARKER]


KILLED = """
import os, signal, sys
from vigc.platform.exports import export
from vigc.platform.dataset.store import Store

def die(num):
    if num >= 1000:
        os.kill(os.getpid(), signal.SIGKILL)

export(Store(sys.argv[1]), sys.argv[2], sys.argv[3], on_progress=die)
"""


@pytest.mark.parametrize("format", ["llava", "huggingface"])
def test_a_killed_export_leaves_nothing_under_its_name(tmp_path, format):
    store = many(tmp_path / "out", 1000)
    command = [sys.executable, "-c", KILLED, str(store), format, str(tmp_path / "x")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "x").exists()
    assert export(store, format, tmp_path / "x").num_examples == (2000 if format == "llava" else 0)
    assert (tmp_path / "x").exists()


def many(out, num):
    """Rows in blocks of a thousand, two kept conversations each."""
    store = Store(out)
    wanted = records(num)
    pass_ = store.create_pass(REQUEST, Records(wanted), rows_per_block=1000)
    for number in range(num // 1000):
        commit(pass_, [row(one) for one in wanted[number * 1000 : (number + 1) * 1000]], number)
    return store


def test_a_folder_replaces_an_earlier_export_and_nothing_else(tmp_path):
    store = finished(tmp_path / "out")
    export(store, "huggingface", tmp_path / "x")
    export(store, "webdataset", tmp_path / "x")
    assert sorted(os.listdir(tmp_path / "x")) == [MARKER]  # no picture is there, so there is no shard
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(StoreError, match="thesis.txt"):
        export(store, "webdataset", tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


def test_an_unknown_format_a_wrong_option_and_a_missing_data_set_are_refused(tmp_path):
    store = finished(tmp_path / "out")
    with pytest.raises(ConfigError, match="Use one of: llava"):
        export(store, "csv", tmp_path / "x")
    with pytest.raises(ConfigError, match="embed does not go with the format llava, but with openai"):
        export(store, "llava", tmp_path / "x", Options(embed=True))
    with pytest.raises(StoreError, match="holds no data set"):
        export(Store(tmp_path / "nothing"), "llava", tmp_path / "x")


def test_an_export_of_many_rows_holds_few_of_them(tmp_path):
    """Streaming: the examples are read while the file is written."""
    num = 4000
    store = many(tmp_path / "out", num)
    seen: list[int] = []
    assert export(store, "openai", tmp_path / "x.jsonl", on_progress=seen.append).num_examples == 2 * num
    assert seen == list(range(0, 2 * num, 500))


def test_the_summary_counts_rows_reasons_lengths_and_changes(tmp_path):
    store = finished(tmp_path / "out")
    found = summarise(store)
    by_kind = found.pop("kinds")
    assert found == {
        "caution": None,
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


def with_place(folder, image_id: str, uri: str) -> Store:
    """A data set of one image, at a place that its id does not tell."""
    store = Store(folder / "out")
    record = replace(records(1)[0], image_id=image_id, uri=uri)
    commit(store.create_pass(REQUEST, Records([record], "made for a test")), [row(record)], 0)
    return store


@pytest.mark.parametrize(
    ("image_id", "uri", "path"),
    [
        ("a/b.jpg", "/photos/a/b.jpg", "a/b.jpg"),
        ("1", "/photos/a.jpg", "/photos/a.jpg"),
        ("1", "/photos/cat #1.jpg", "/photos/cat #1.jpg"),
        ("7", "https://host/b.jpg?x=1", "https://host/b.jpg?x=1"),
    ],
)
def test_a_trainer_is_told_a_path_that_leads_to_the_image(tmp_path, image_id, uri, path):
    store = with_place(tmp_path, image_id, uri)
    export(store, "llava", tmp_path / "x.json")
    export(store, "sharegpt", tmp_path / "y.json")
    assert {example["image"] for example in json.loads((tmp_path / "x.json").read_text())} == {path}
    assert [example["images"] for example in json.loads((tmp_path / "y.json").read_text())] == [[path]] * 2


@pytest.mark.parametrize("uri", ["/data/s.tar#512+677", "/data/x.parquet#row=3&column=image"])
@pytest.mark.parametrize("format", ["llava", "sharegpt", "openai"])
def test_an_image_that_lies_inside_another_file_is_not_named_as_if_it_had_a_path(tmp_path, uri, format):
    with pytest.raises(ConfigError, match="where no path leads. Export with --format webdataset or huggingface"):
        export(with_place(tmp_path, "s.tar/0.jpg", uri), format, tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()
