"""`vigc verify --images`: the pictures that a data set was made of, read again."""

from __future__ import annotations

import hashlib
import io
import re
import threading
import time
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler

import pytest
from datasets import REQUEST, commit, draw, row
from rich.console import Console
from source_files import serving
from waiting import WAIT_S

from vigc.jobs.dataset.verify import ProgressBar
from vigc.platform.dataset.store import Store
from vigc.platform.dataset.verify_images import verify_images
from vigc.platform.records import ImageRecord, Kind
from vigc.platform.report.summary import write_summary
from vigc.platform.sources.base import Records


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def answering(kinds, made):
    return replace(
        made, conversations=[replace(made.conversations[0], kind=Kind(kind)) for kind in kinds if made.conversations]
    )


def made_of(out, pictures, address=str, requests=(REQUEST,)):
    """A data set of these pictures in each of some passes, and of one that could not be read then."""
    gone = pictures[0].parent / "gone.png"
    records = [ImageRecord(path.name, address(path)) for path in (*pictures, gone)]
    for request in requests:
        pass_ = Store(out).create_pass(request, Records(records), rows_per_block=4)
        rows = [
            answering(
                request["kinds"],
                replace(row(record, error=None if path.exists() else "missing"), sha256=sha256(path)),
            )
            for record, path in zip(records, (*pictures, gone), strict=True)
        ]
        for number in range(-(-len(rows) // 4)):
            commit(pass_, rows[4 * number : 4 * number + 4], number)
    write_summary(Store(out))
    return Store(out)


@pytest.fixture
def pictures(tmp_path):
    return [draw(tmp_path / "photos" / f"{seed}.png", seed) for seed in range(10)]


def test_pictures_that_are_what_they_were_are_counted(vigc_here, pictures, tmp_path):
    made_of(tmp_path / "data", pictures)

    result = vigc_here("verify", tmp_path / "data", "--images")

    assert result.code == 0, result.out
    assert result.out.splitlines()[-2:] == [
        "source images: 10 read again, 0 changed, 0 not readable any more; 1 could not be read at the time.",
        "ok: 11 images asked for, 11 rows, 1 of them for images that could not be used, none double or torn.",
    ]


def test_pictures_that_changed_or_are_gone_are_named(vigc_here, pictures, tmp_path):
    made_of(tmp_path / "data", pictures)
    draw(pictures[3], 99)
    pictures[7].unlink()
    pictures[8].write_bytes(b"")

    result = vigc_here("verify", tmp_path / "data", "--images")
    images = vigc_here("verify", tmp_path / "data", "--images", "--json").json()

    assert result.code == 1
    assert f"3.png: changed since the data set was made. It was read from {pictures[3]}" in result.out
    assert f"7.png: cannot be read any more (missing: no file at {pictures[7]})" in result.out
    assert "8.png: cannot be read any more (empty: " in result.out
    assert "10 read again, 1 changed, 2 not readable any more" in result.out
    assert "not ok: the source images; else 11 images asked for" in result.out
    assert (images["ok"], images["problems"], images["missing"], images["doubled"]) == (False, [], [], [])
    assert images["images"]["changed"] == [{"image_id": "3.png", "uri": str(pictures[3])}]
    assert [one["image_id"] for one in images["images"]["unreadable"]] == ["7.png", "8.png"]
    assert vigc_here("verify", tmp_path / "data").code == 0


def test_a_sample_is_the_same_each_time_and_of_the_size_that_was_asked_for(vigc_here, pictures, tmp_path):
    made_of(tmp_path / "data", pictures)
    for path in pictures:
        path.unlink()

    once, again, more = (
        vigc_here("verify", tmp_path / "data", "--images", "--sample", number, "--json").json()["images"]
        for number in (4, 4, 6)
    )

    names = {number: {one["image_id"] for one in found["unreadable"]} for number, found in ((4, once), (6, more))}
    assert once == again
    assert once["num_checked"] == len(names[4]) == 4
    assert names[4] < names[6]


def test_a_picture_of_two_passes_is_read_once(pictures, tmp_path):
    store = made_of(tmp_path / "data", pictures, requests=(REQUEST, REQUEST | {"kinds": ["knowledge"]}))

    assert len(list(store.rows())) == 22
    found = verify_images(store)
    assert (found.num_checked, found.num_without_hash) == (10, 1)


def test_rows_that_are_not_whole_are_told_before_any_picture_is_read(vigc_here, pictures, tmp_path):
    store = made_of(tmp_path / "data", pictures)
    next((store.passes()[0].folder.path / "rows").rglob("*.parquet")).unlink()

    result = vigc_here("verify", tmp_path / "data", "--images", "--json")

    assert result.code == 1
    assert "images" not in result.json()


def test_a_sample_of_nothing_is_refused(vigc_here, pictures, tmp_path):
    made_of(tmp_path / "data", pictures)

    assert vigc_here("verify", tmp_path / "data", "--sample", 3).err.startswith("vigc: --sample says how many")


def test_pictures_that_lie_elsewhere_are_fetched_by_several_at_once(pictures, tmp_path):
    """Each answer waits until four are asked for."""
    together = threading.Barrier(4, timeout=WAIT_S)

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            together.wait()
            super().do_GET()

        def log_message(self, *arguments):
            pass

    with serving(partial(Handler, directory=str(pictures[0].parent))) as host:
        store = made_of(tmp_path / "data", pictures[:8], address=lambda path: f"{host}/{path.name}")
        seen = []
        found = verify_images(store, on_progress=lambda done, total: seen.append((done, total)))
    assert (found.num_checked, found.ok) == (8, True)
    assert seen == [(number, 8) for number in range(1, 9)]


@pytest.mark.parametrize(
    ("is_terminal", "after_s", "shown"), [(True, 0.0, True), (True, 60.0, False), (False, 0.0, False)]
)
def test_a_terminal_shows_rate_and_time_left_of_what_takes_its_time(monkeypatch, is_terminal, after_s, shown):
    monkeypatch.setattr("vigc.jobs.dataset.verify.SECONDS_WITHOUT_BAR", after_s)
    said = io.StringIO()
    meter = ProgressBar(Console(file=said, force_terminal=is_terminal, width=100))

    with meter.shown("rows"):
        for done in (100, 200):
            time.sleep(0.01)
            meter.report(done, 1000)

    assert ("200/1000" in said.getvalue()) is shown
    assert bool(re.search(r"\d+/s .*\d:\d\d:\d\d", said.getvalue())) is shown
