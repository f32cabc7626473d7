"""Which images and kinds a further pass asks for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from datasets import REQUEST, commit, finished, records, row, source

from vigc.platform.dataset.followup_passes import FailedImages, SameImages
from vigc.platform.dataset.store import Store
from vigc.platform.records import Kind
from vigc.platform.sources.base import Records

KNOWLEDGE = REQUEST | {"kinds": ["knowledge"], "source": "images of pass 001"}


def add(store, request, wanted, failed=()):
    """A pass over some images with a row for each."""
    pass_ = store.create_pass(request, wanted, rows_per_block=100)
    rows = []
    for record in wanted:
        made = row(record, error="missing" if record.image_id in failed else None)
        spoken = [replace(made.conversations[0], kind=Kind(kind)) for kind in request["kinds"] if made.conversations]
        rows.append(replace(made, conversations=spoken, pass_=pass_.number))
    commit(pass_, rows, 0)
    return pass_


def ids(source):
    return [record.image_id for record in source]


def test_what_failed_is_asked_again_in_the_order_of_the_manifest(tmp_path):
    store = finished(tmp_path / "out", num=6, failed=2)
    failed = FailedImages(store)

    assert ids(failed) == ["im4.png", "im5.png"]
    assert (failed.kinds, failed.num_images(), failed.num_left) == (["conversation", "detail"], 2, 0)
    assert failed.describe() == "failed images of pass 001"


def test_an_image_is_asked_for_the_kinds_it_lacks_and_no_answer_can_be_lost(tmp_path):
    """im5 failed for all kinds, im0 to im2 for the added one only: a failure of theirs must not replace the others."""
    store = finished(tmp_path / "out", num=6, failed=1)
    add(store, KNOWLEDGE, source(6), failed=("im0.png", "im1.png", "im2.png", "im5.png"))

    failed = FailedImages(store)
    assert (ids(failed), failed.kinds) == (["im0.png", "im1.png", "im2.png"], ["knowledge"])
    assert failed.num_left == 1

    add(store, REQUEST | {"kinds": failed.kinds, "source": failed.describe()}, Records(list(failed)))
    failed = FailedImages(store)
    assert (ids(failed), failed.kinds) == (["im5.png"], ["conversation", "detail", "knowledge"])
    assert failed.num_left == 0


def test_an_unfinished_retry_is_found_whatever_came_after_it(tmp_path):
    store = finished(tmp_path / "out", num=6, failed=2)
    wanted = FailedImages(store)
    retry = store.create_pass(REQUEST | {"source": wanted.describe()}, wanted)
    add(store, KNOWLEDGE, source(6), failed=("im5.png",))

    failed = FailedImages(store)

    assert failed.unfinished == retry
    assert failed.describe() == retry.request["source"]
    assert failed.kinds == retry.request["kinds"]


def test_more_kinds_are_asked_of_each_image_once_and_not_of_what_passes_asked_again(tmp_path):
    store = finished(tmp_path / "out", num=6, failed=1)
    add(store, REQUEST | {"source": "failed images of pass 001"}, Records(records(6)[5:]))
    add(store, REQUEST | {"source": "another", "seed": 1}, source(8))

    same = SameImages(store)

    assert same.describe() == "images of pass 001, 003"
    assert ids(same) == [f"im{number}.png" for number in range(8)]


@pytest.mark.parametrize(
    ("changes", "have"),
    [({}, True), ({"kinds": ["detail"]}, True), ({"kinds": ["knowledge"]}, False), ({"policy": {}}, False)],
)
def test_kinds_that_were_asked_for_in_the_same_way_are_there_already(tmp_path, changes, have):
    store = Store(tmp_path / "out")
    add(store, REQUEST, source(3))

    assert SameImages(store).have(REQUEST | {"source": "images of pass 001"} | changes) is have


def test_a_kind_that_a_newer_pass_answered_is_not_asked_again(tmp_path):
    store = finished(tmp_path / "out", num=6, failed=1)
    add(store, REQUEST | {"kinds": ["detail"], "seed": 1}, source(6))

    failed = FailedImages(store)

    assert (ids(failed), failed.kinds) == (["im5.png"], ["conversation"])


def test_a_data_set_without_failures_leaves_nothing_to_retry(tmp_path):
    failed = FailedImages(finished(tmp_path / "out", num=6, failed=0))

    assert (failed.num_images(), failed.kinds, failed.num_left, ids(failed)) == (0, [], 0, [])
