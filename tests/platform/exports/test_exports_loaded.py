"""Exports, read by those they are for: datasets, webdataset, trl's collator for preference data with images."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from measured_dataset import MORE, TRUE, UNTRUE, conversation, measured_dataset, row, sentence, store_of
from PIL import Image
from waiting import WAIT_S

from vigc.platform.exports import Exported, Options, Per, export
from vigc.platform.exports.preference import NO_DIFFERENCE, NO_VIG, NOT_MEASURED, pairs_of
from vigc.platform.records import Kind
from vigc.platform.schema import to_dict

READER = Path(__file__).parents[2] / "consumers" / "read_exports.py"
GONE = {"without their image: missing": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module")
def done(folder):
    """Every format written once."""
    store = measured_dataset(folder)
    return {
        "llava.json": export(store, "llava", folder / "llava.json"),
        "sharegpt.json": export(store, "sharegpt", folder / "sharegpt.json"),
        "openai.jsonl": export(store, "openai", folder / "openai.jsonl"),
        "parquet.parquet": export(store, "parquet", folder / "parquet.parquet"),
        "huggingface": export(store, "huggingface", folder / "huggingface", Options(shard_bytes=1)),
        "huggingface-joined": export(store, "huggingface", folder / "huggingface-joined", Options(multi_turn=True)),
        "webdataset": export(store, "webdataset", folder / "webdataset", Options(shard_bytes=1)),
        "preference": export(store, "preference", folder / "preference"),
        "preference-sentence": export(store, "preference", folder / "preference-sentence", Options(per=Per.SENTENCE)),
    }


@pytest.fixture(scope="module")
def loaded(folder, done):
    """What the libraries saw, all in one process of their own."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run(
        [sys.executable, READER, folder], env=env, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("llava.json", ["id", "image", "conversations"]),
        ("sharegpt.json", ["id", "conversations", "images"]),
        ("openai.jsonl", ["messages"]),
    ],
)
def test_json_loads_in_datasets(done, loaded, name, columns):
    assert done[name] == Exported(4, {})
    assert (loaded[name]["num"], loaded[name]["columns"]) == (4, columns)


def test_openai_messages_hold_the_picture_when_asked(folder, tmp_path):
    done = export(measured_dataset(tmp_path), "openai", tmp_path / "x.jsonl", Options(embed=True, multi_turn=True))
    assert done == Exported(2, GONE)
    first = json.loads((tmp_path / "x.jsonl").read_text().splitlines()[0])["messages"]
    assert [message["role"] for message in first] == ["user", "assistant"] * 2
    assert first[0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert first[2]["content"] == "What is there (detail)?"


def test_parquet_has_what_was_measured(done, loaded):
    found = loaded["parquet.parquet"]
    assert found["num"] == done["parquet.parquet"].num_examples == 4
    assert found["first"]["sentences"][0]["objects_named"] == ["cat", "chair"]
    assert found["first"]["answer"] == f"{TRUE} {MORE}"


@pytest.mark.parametrize(("name", "num"), [("huggingface", 3), ("huggingface-joined", 2)])
def test_the_hugging_face_folder_loads_with_pictures_and_has_a_card(folder, done, loaded, name, num):
    found = loaded[name]
    assert done[name] == Exported(num, GONE)
    assert (found["num"], found["pictures"]) == (num, [[64, 48]])
    question, answer = found["first"]["messages"][:2]
    assert [part["type"] for part in question["content"]] == ["image", "text"]
    assert answer["content"] == [{"type": "text", "text": f"{TRUE} {MORE}"}]
    card = (folder / name / "README.md").read_text()
    assert all(f"`{column}`" in card for column in found["columns"])
    assert "1 without their image: missing" in card


def test_webdataset_reads_the_shards(folder, loaded):
    found = loaded["webdataset"]
    assert found["num_shards"] == 3
    assert found["keys"] == ["000000000", "000000001", "000000002"]
    original = (folder / "images" / "im1.png").read_bytes()
    assert bytes.fromhex(found["pixels"]) == Image.open(io.BytesIO(original)).convert("RGB").tobytes()
    assert found["first"]["conversations"][1] == {"from": "gpt", "value": f"{TRUE} {MORE}"}


def test_preference_pairs_go_through_trl_as_its_collator_takes_them(done, loaded):
    assert done["preference"] == Exported(3, GONE)
    assert loaded["preference"] == {
        "num": 3,
        "is_conversational": True,
        "picture": [64, 48],
        "question": "What is there (detail)?",
        "chosen": ["assistant", f"{TRUE} {MORE}"],
        "rejected": ["assistant", f"{TRUE} {UNTRUE} {MORE}"],
        "because": "objects",
        "objects_absent": ["dog"],
    }


def test_pairs_per_sentence_share_their_beginning(loaded):
    found = loaded["preference-sentence"]
    assert found["num"] == 3
    assert (found["chosen"][1], found["rejected"][1]) == (f"{TRUE} {MORE}", f"{TRUE} {UNTRUE}")


def of(**changes):
    return to_dict(conversation(**changes))


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (of(vig_answer="", vig_sentences=[]), NO_VIG),
        (of(answer=f"{TRUE} {UNTRUE}", sentences=[sentence(TRUE), sentence(UNTRUE)]), NO_DIFFERENCE),  # untrue as well
        (of(vig_answer=f"{MORE} {TRUE}", vig_sentences=[sentence(MORE), sentence(TRUE)]), NO_DIFFERENCE),  # only style
        (
            of(
                sentences=[sentence(TRUE, is_measured=False)],
                vig_sentences=[sentence(UNTRUE, is_measured=False)],
            ),
            NOT_MEASURED,
        ),
    ],
)
def test_answers_that_do_not_differ_in_truth_are_no_pair(one, why):
    assert pairs_of(one, Per.ANSWER) == why


def test_where_objects_are_unknown_grounding_tells():
    plain = {"is_measured": False}
    one = of(
        sentences=[sentence(TRUE, 1.5, **plain)],
        vig_sentences=[sentence(TRUE, 1.5, **plain), sentence(UNTRUE, -0.8, **plain)],
    )
    (pair,) = pairs_of(one, Per.ANSWER)
    assert (pair.because, pair.objects_absent) == ("grounding", None)


def test_an_untrue_last_sentence_is_rejected_for_the_end_of_the_answer():
    one = of(vig_sentences=[sentence(TRUE), sentence(MORE), sentence(UNTRUE)])
    (pair,) = pairs_of(one, Per.SENTENCE)
    assert (pair.chosen, pair.rejected) == (f"{TRUE} {MORE}", f"{TRUE} {MORE} {UNTRUE}")


def test_an_untrue_sentence_that_was_rewritten_is_rejected_for_its_new_form():
    better = sentence("A chair stands beside it.")
    one = of(answer=f"{TRUE} {better.text} {MORE}", sentences=[sentence(TRUE), better, sentence(MORE)])
    (pair,) = pairs_of(one, Per.SENTENCE)
    assert (pair.chosen, pair.rejected) == (f"{TRUE} {better.text}", f"{TRUE} {UNTRUE}")


def test_folders_and_files_are_written_to_s3(tmp_path, s3_place):
    from vigc.platform.exports.validate import validate
    from vigc.platform.storage import open_folder

    store = store_of(tmp_path / "out", [row(tmp_path / "images", n, [conversation(Kind.DETAIL)]) for n in range(3)])
    for format in ("huggingface", "preference", "webdataset", "webdataset"):  # the last in place of an earlier one
        assert export(store, format, f"{s3_place}/{format}").num_examples == 3
    export(store, "parquet", f"{s3_place}/x.parquet")
    names = [entry.name for entry in open_folder(s3_place).files()]
    assert names == [
        "huggingface/README.md",
        "huggingface/data/train-00000.parquet",
        "huggingface/export.json",
        "preference/README.md",
        "preference/data/train-00000.parquet",
        "preference/export.json",
        "webdataset/export.json",
        "webdataset/shard-00000.tar",
        "x.parquet",
    ]
    found = validate(f"{s3_place}/preference")
    assert (found.is_ok, found.num_rows, found.num_images) == (True, 3, 3)
