"""`vigc filter`: deciding, deciding again, and what the other verbs make of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap

import pytest
from annotated_datasets import AnnotatedAnswer, add_pass, data_set
from datasets import draw

from vigc.platform.dataset.digest import digest
from vigc.platform.dataset.store import Store
from vigc.platform.images.decode import decode
from vigc.platform.records import Kind
from vigc.platform.storage.files import only_writer

TWO_ABSENT = AnnotatedAnswer(["dog"], "A cat.", "A cat on a horse.", "What is it?", Kind.CONVERSATION)
ONE_ABSENT = AnnotatedAnswer(["dog"], "A cat.", "A cat.", "What is there?", Kind.CONVERSATION)
RIGHT = AnnotatedAnswer(["dog"], "A cat.", "A dog.", "Which animal is it?", Kind.CONVERSATION)


@pytest.fixture
def out(tmp_path):
    return data_set(tmp_path / "data", [[TWO_ABSENT], [ONE_ABSENT], [RIGHT]]).folder.path


def kept(place) -> list[str]:
    return sorted(row["image_id"] for row in Store(place).rows() if row["conversations"][0]["status"] == "kept")


def test_deciding_again_with_other_flags_makes_nothing_anew_and_rewrites_no_row(vigc_here, out):
    before, rows = digest(out), {path: path.read_bytes() for path in out.glob("passes/**/*.*")}
    assert kept(out) == ["im0.png", "im1.png", "im2.png"]
    assert vigc_here("filter", out).code == 0
    assert kept(out) == ["im1.png", "im2.png"]
    vigc_here("filter", out, "--max-absent", 0)
    assert kept(out) == ["im2.png"]
    vigc_here("filter", out, "--max-absent", 2)
    assert kept(out) == ["im0.png", "im1.png", "im2.png"]
    vigc_here("filter", out, "--clear")

    assert kept(out) == ["im0.png", "im1.png", "im2.png"]
    assert {path: path.read_bytes() for path in out.glob("passes/**/*.*")} == rows
    assert digest(out) == before
    assert vigc_here("verify", out).code == 0


def test_the_same_decision_again_changes_no_file(vigc_here, out):
    vigc_here("filter", out)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (out / "verdicts").iterdir()}
    result = vigc_here("filter", out)

    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (out / "verdicts").iterdir()} == before
    assert "nothing has changed" in result.out


def test_the_table_says_what_each_filter_did_and_the_rates_of_what_is_left(vigc_here, out, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    said = [" ".join(line.split()) for line in vigc_here("filter", out).out.splitlines()]

    assert "absent 3 1 1 the answer names more than 1 objects that are not there" in said
    assert "all 3 1 2 kept" in said
    assert any(line.startswith("kept 2 50.0%") for line in said)
    assert "absent 3 1 1 the answer names more than 1 objects that are not there" in [
        " ".join(line.split()) for line in vigc_here("summary", out).out.splitlines()
    ]


def test_json_holds_the_account(vigc_here, out):
    found = vigc_here("filter", out, "--json").json()

    assert (found["number"], found["changed"], found["about"]["rejected"]) == ("001", True, 1)
    assert vigc_here("summary", out, "--json").json()["verdicts"][0]["settings"]["max_absent"] == 1


def test_a_data_set_that_is_being_written_is_not_decided_about(vigc_here, out):
    with only_writer(out):
        result = vigc_here("filter", out)

    assert result.code == 2
    assert "is being written by" in result.err
    assert not (out / "verdicts").exists()


def test_an_answer_that_was_made_since_is_not_judged_by_an_older_decision(vigc_here, out):
    vigc_here("filter", out)
    add_pass(Store(out), [[RIGHT]], seed=1)

    assert kept(out) == ["im0.png", "im1.png", "im2.png"]
    assert "1 conversations were made since" in vigc_here("summary", out).out
    assert vigc_here("filter", out, "--max-absent", 0).code == 0
    assert kept(out) == ["im0.png", "im2.png"]
    assert "made since" not in vigc_here("summary", out).out


@pytest.mark.parametrize("moment", ["before the verdicts", "before the account"])
def test_a_kill_at_any_moment_leaves_the_old_decision(vigc_here, out, moment):
    vigc_here("filter", out)
    code = f"""
        import os, signal
        from vigc.platform.dataset import verdicts
        from vigc.platform.storage.local import LocalFolder
        from vigc.jobs.dataset.filter import run_filter
        from vigc.platform.quality.settings import FilterSettings
        die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
        if {moment!r} == "before the verdicts":
            LocalFolder.upload = die
        else:
            verdicts.json.dump = die
        run_filter({str(out)!r}, FilterSettings(max_absent=0))
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)]).returncode == -9
    assert kept(out) == ["im1.png", "im2.png"]
    assert vigc_here("filter", out, "--max-absent", 0).code == 0
    assert kept(out) == ["im2.png"]
    assert vigc_here("verify", out).code == 0


def test_images_like_those_of_a_benchmark_are_left_out_and_named(vigc_here, tmp_path):
    benchmark = tmp_path / "benchmark"
    picture, _ = draw(benchmark / "a.png", 1, (200, 150)), draw(benchmark / "b.png", 2, (200, 150))
    smaller = tmp_path / "smaller.jpg"
    from PIL import Image

    with Image.open(picture) as image:
        image.resize((120, 90)).convert("RGB").save(smaller, quality=80)
    hashes = [decode(str(smaller), 160).phash, decode(str(draw(tmp_path / "c.png", 3)), 160).phash]
    out = data_set(
        tmp_path / "data", [[AnnotatedAnswer(["dog"], "", "A dog.", f"What {h}?", phash=h)] for h in hashes]
    ).folder.path
    (benchmark / "broken.jpg").write_text("no picture")
    result = vigc_here("filter", out, "--exclude-like", benchmark)

    assert kept(out) == ["im1.png"]
    assert "1 images are like one of 2 in folder" in result.out
    assert "im0.png is like a.png" in result.out
    matches = vigc_here("summary", out, "--json").json()["verdicts"][0]["evaluation_images"]
    assert (len(matches["matches"]), matches["num_unreadable"]) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--words", "/nowhere"], "the words cannot be read"),
        (["--max-yes-no", 0.1], "--max-yes-no: should be greater than or equal to 0.5, not '0.1'"),
        (["--off", "nonsense"], "no such filter"),
        (["--exclude-like", "/nowhere"], "/nowhere"),
        (["--max-opening", 0.01], "begin in only"),
    ],
)
def test_a_flag_that_cannot_be_used_is_one_line_and_decides_nothing(vigc_here, out, arguments, says):
    result = vigc_here("filter", out, *arguments)

    assert result.code == 2
    assert says in result.err
    assert result.err.count("\n") == 1
    assert not (out / "verdicts").exists()


def test_disallowed_words_are_read_from_a_file(vigc_here, out, tmp_path):
    (tmp_path / "words.txt").write_text("\nHORSE\n a  dog \n")
    vigc_here("filter", out, "--words", tmp_path / "words.txt")

    assert kept(out) == ["im1.png"]


def test_there_is_nothing_to_decide_where_there_is_no_data_set(vigc_here, tmp_path):
    assert "holds no data set" in vigc_here("filter", tmp_path / "none").err


@pytest.mark.slow
def test_meanings_that_lie_close_are_the_same_question(vigc_here, tmp_path):
    pair = [
        AnnotatedAnswer(["car"], "", "It is red.", "What colour is the car?", Kind.CONVERSATION),
        AnnotatedAnswer(["car"], "", "It is red.", "Which color does the automobile have?", Kind.REASONING),
    ]
    out = data_set(tmp_path / "data", [pair]).folder.path
    counts = {}
    for meaning in ((), ("--similar-meaning", 0.8)):
        found = vigc_here("filter", out, *meaning, "--json").json()
        counts[meaning] = found["about"]["rejected"]

    assert list(counts.values()) == [0, 1]


@pytest.mark.slow
def test_a_data_set_in_a_bucket_is_decided_about_like_one_on_disk(vigc_here, out, s3_place):
    data_set(s3_place, [[TWO_ABSENT], [ONE_ABSENT], [RIGHT]])
    assert vigc_here("filter", s3_place).code == 0
    vigc_here("filter", out)

    assert kept(s3_place) == kept(out) == ["im1.png", "im2.png"]
    there = Store(s3_place).folder.read("verdicts/001.parquet")
    assert there == (out / "verdicts/001.parquet").read_bytes()
    assert vigc_here("verify", s3_place).code == 0
    shutil.rmtree(out)


def test_the_first_word_of_a_list_with_a_byte_order_mark_counts(vigc_here, out, tmp_path):
    words = tmp_path / "words.txt"
    words.write_bytes(b"\xef\xbb\xbfdog\r\nzebra\r\n")
    assert vigc_here("filter", out, "--max-absent", 2, "--words", words).code == 0
    assert kept(out) == ["im0.png", "im1.png"]
