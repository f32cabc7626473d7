"""Further passes over a data set that is there, as a user asks for them: retries, more kinds, other settings."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter

import pytest
from waiting import wait_until

from vigc.platform.dataset.digest import digest
from vigc.platform.dataset.store import Store
from vigc.platform.dataset.verify import verify

BROKEN = ("001.jpg", "002.jpg", "003.jpg", "004.jpg", "005.jpg")
DETAIL = ("--kinds", "detail", "--set", "max_steps=1")


@pytest.fixture(scope="module")
def whole(scenes_dir, tmp_path_factory):
    """Six pictures as they should be."""
    folder = tmp_path_factory.mktemp("whole")
    for number, path in enumerate(sorted((scenes_dir / "images").glob("*.jpg"))[:6]):
        shutil.copy(path, folder / f"{number:03}.jpg")
    return folder


@pytest.fixture(scope="module")
def made(vigc_joined, whole, tmp_path_factory):
    """The pictures, five of them broken, and the data set that was made of those."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(whole, folder / "pictures")
    for name in BROKEN:
        (folder / "pictures" / name).write_text("no picture")
    result = vigc_joined("generate", folder / "pictures", "--out", folder / "data", *DETAIL)
    assert result.code == 0, result.err
    return folder


@pytest.fixture(scope="module")
def undisturbed(vigc_joined, whole, tmp_path_factory):
    """What a single run gives where no picture is broken."""
    out = tmp_path_factory.mktemp("undisturbed") / "data"
    result = vigc_joined("generate", whole, "--out", out, *DETAIL)
    assert result.code == 0, result.err
    return out


@pytest.fixture
def place(made, tmp_path):
    """A copy of `made` whose data set names the copied pictures' old place, which is mended where a test says so."""
    shutil.copytree(made / "data", tmp_path / "data")
    yield tmp_path / "data"
    for name in BROKEN:
        (made / "pictures" / name).write_text("no picture")


def mend(made, whole, *names):
    for name in names:
        shutil.copy(whole / name, made / "pictures" / name)


def passes(out):
    return [one.number for one in Store(out).passes()]


def answers(out):
    """Of the view. Nothing comes twice in it."""
    found = Counter()
    said = {}
    for row in Store(out).rows():
        if row["status"] == "failed":
            found[row["image_id"], "failed", row["pass"]] += 1
        for spoken in row["conversations"]:
            found[row["image_id"], spoken["kind"]] += 1
            said[row["image_id"], spoken["kind"]] = spoken["answer"]
    assert set(found.values()) == {1}
    return said


def failed(out):
    return sorted(row["image_id"] for row in Store(out).rows() if row["status"] == "failed")


def test_mended_pictures_become_ok_in_a_second_pass_and_the_others_stay_failed(
    vigc_joined, vigc_here, made, whole, place, undisturbed
):
    before = digest(place)
    mend(made, whole, *BROKEN[:3])

    first = vigc_joined("generate", "--retry-failed", place)

    assert first.code == 0, first.err
    assert "failed images of pass 001: 5 images" in first.out
    assert "(pass 002, new)" in first.out
    assert "6, the newest of 2 passes: 4 ok, 2 failed (not_an_image 2)" in first.out
    assert passes(place) == ["001", "002"]
    assert failed(place) == list(BROKEN[3:])
    assert len(answers(place)) == 4
    assert vigc_here("verify", place).code == 0
    partly = digest(place)
    assert partly != before

    mend(made, whole, *BROKEN[3:])
    second = vigc_joined("generate", "--retry-failed", "--out", place, "--slots", 2)

    assert second.code == 0, second.err
    assert passes(place) == ["001", "002", "003"]
    assert failed(place) == []
    assert answers(place) == answers(undisturbed)
    assert digest(place) == digest(undisturbed)
    verified = vigc_here("verify", place, "--json").json()
    assert verified["ok"]
    assert [(one["pass"], one["num_requested"], one["num_failed"]) for one in verified["passes"]] == [
        ("001", 6, 5),
        ("002", 5, 2),
        ("003", 2, 0),
    ]
    run = json.loads((place / "passes/003/runs/001.json").read_text())
    assert (run["config"]["slots"], run["config"]["set"]) == (2, {"max_steps": "1"})

    third = vigc_here("generate", "--retry-failed", place)

    assert (third.code, third.err) == (0, "")
    assert third.out == f"No image of {place} failed, so there is nothing to retry.\n"
    assert passes(place) == ["001", "002", "003"]
    assert vigc_here("generate", "--retry-failed", place, "--json").json()["num_made"] == 0
    assert vigc_here("generate", made / "pictures", "--out", place, *DETAIL).code == 0
    assert passes(place) == ["001", "002", "003"]


@pytest.mark.slow
def test_a_retry_that_is_killed_is_continued_and_not_begun_a_third_time(
    vigc_joined, vigc_here, vigc_started, made, whole, place, undisturbed
):
    mend(made, whole, *BROKEN)
    command = ("generate", "--retry-failed", place, "--slots", 1)  # so that images finish one after another
    with vigc_started(*command) as killed:
        wait_until(lambda: [*place.glob("passes/002/rows/*/*.parquet")], process=killed)
        os.kill(killed.pid, signal.SIGKILL)
    num_done = len([*place.glob("passes/002/rows/*/*.parquet")])
    assert 1 <= num_done < 5
    assert vigc_here("verify", place).code == 1
    other = vigc_here("generate", "--retry-failed", place, "--seed", 5)
    assert other.code == 2
    assert "a retry that is not finished, begun with other settings: seed: 0 -> 5" in other.err

    again = vigc_joined(*command)

    assert again.code == 0, again.err
    assert "(pass 002, continued, " in again.out
    assert passes(place) == ["001", "002"]
    assert verify(place).problems == []
    assert digest(place) == digest(undisturbed)


@pytest.mark.slow
def test_a_kind_is_added_once(vigc_joined, vigc_here, made, whole, place):
    mend(made, whole, BROKEN[0])
    before = answers(place)

    first = vigc_joined("generate", "--add-kind", "reasoning", place)

    assert first.code == 0, first.err
    assert "images of pass 001: 6 images" in first.out
    assert answers(place).keys() == before.keys() | {("000.jpg", "reasoning"), ("001.jpg", "reasoning")}
    assert vigc_here("verify", place).code == 0

    second = vigc_here("generate", "--add-kind", "reasoning", place, "--json")

    assert second.code == 0, second.err
    assert (second.json()["pass"], second.json()["num_made"]) == ("002", 0)
    assert passes(place) == ["001", "002"]
    known = vigc_here("generate", "--add-kind", "detail", place)
    assert (known.code, passes(place)) == (0, ["001", "002"])
    assert known.out == f"{place} was asked for detail in this way already; there is nothing to add.\n"


@pytest.mark.slow
def test_new_settings_add_a_pass_whose_answers_count_and_the_same_ones_continue_it(vigc_joined, vigc_here, made, place):
    command = ("generate", made / "pictures", "--out", place, "--kinds", "detail", "--temperature", 1.0, "--seed", 3)
    before = answers(place)

    refused = vigc_here(*command)
    assert refused.code == 2
    assert "policy.max_steps: 1 -> 16; policy.temperature: 0.0 -> 1.0; seed: 0 -> 3" in refused.err
    assert "--new" in refused.err

    added = vigc_joined(*command, "--new")
    assert added.code == 0, added.err
    assert passes(place) == ["001", "002"]
    assert answers(place).keys() == before.keys()
    assert answers(place) != before
    changed = digest(place)

    again = vigc_here(*command, "--new", "--json").json()
    assert (again["pass"], again["num_made"], passes(place)) == ("002", 0, ["001", "002"])
    assert digest(place) == changed
    assert vigc_here("verify", place).code == 0

    earlier = vigc_here("generate", made / "pictures", "--out", place, *DETAIL)
    assert (earlier.code, passes(place), digest(place)) == (0, ["001", "002"], changed)
    assert "Pass 002 is newer than this one, 001; where both answer, the newer counts." in earlier.out

    replaced = vigc_joined("generate", made / "pictures", "--out", place, *DETAIL, "--overwrite", "--json")
    assert (replaced.code, replaced.json()["num_made"]) == (0, 6)
    assert passes(place) == ["001"]
    assert answers(place) == before
