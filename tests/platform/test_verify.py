from __future__ import annotations

import pytest
from datasets import commit, finished, records, row

from vigc.platform.digest import digest
from vigc.platform.records import StoreError
from vigc.platform.verify import verify


@pytest.fixture
def store(tmp_path):
    return finished(tmp_path / "out")


def only_problem(store):
    found = verify(store.path)
    assert not found.ok
    (problem,) = found.problems
    return problem


def test_a_whole_data_set_verifies(store):
    found = verify(store.path)
    assert (found.ok, found.num_requested, found.num_rows, found.num_failed) == (True, 6, 6, 1)


def test_a_committed_file_that_is_gone_is_found_with_its_images(store):
    (store.passes()[0].rows_dir / "b_000001-0.parquet").unlink()
    gone, lacking = verify(store.path).problems
    assert "b_000001-0.parquet is committed but gone" in gone
    assert "3 images have no row" in lacking
    assert "'im3.png'" in lacking


def test_following_the_advice_for_a_lost_file_makes_its_images_remaining_again(store):
    (pass_,) = store.passes()
    (pass_.rows_dir / "b_000001-0.parquet").unlink()
    assert f"delete it and {pass_.checkpoint_dir / 'b_000001.parquet'}" in verify(store.path).problems[0]
    (pass_.checkpoint_dir / "b_000001.parquet").unlink()
    assert pass_.remaining() == 3
    assert "3 images have no row" in only_problem(store)


def test_a_torn_file_is_found(store):
    path = store.passes()[0].rows_dir / "b_000000-0.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    torn, lacking = verify(store.path).problems
    assert "b_000000-0.parquet is torn or damaged" in torn
    assert "3 images have no row" in lacking


def test_orphans_and_pending_entries_are_found(store):
    (pass_,) = store.passes()
    (pass_.rows_dir / "x_000009-0.parquet").write_bytes(b"")
    assert "x_000009-0.parquet is not committed" in only_problem(store)
    (pass_.checkpoint_dir / "x_000009.pending.parquet").write_bytes(b"")
    assert len(verify(store.path).problems) == 2
    pass_.discard_uncommitted()
    assert verify(store.path).ok


def test_a_row_too_many_is_found(store):
    (pass_,) = store.passes()
    commit(pass_, [row(records(1)[0], colour=0)], "c_000000")
    assert "1 images have more than one row. For example: 'im0.png'" in only_problem(store)


def test_a_row_that_nobody_asked_for_is_found(store):
    commit(store.passes()[0], [row(records(8)[7])], "c_000000")
    assert "never asked for. For example: 'im7.png'" in only_problem(store)


@pytest.mark.parametrize("change", ["missing", "twice"])
def test_an_ok_row_without_exactly_its_kinds_is_found(tmp_path, change):
    store = finished(tmp_path / "out", num=2, failed=0)
    (pass_,) = store.passes()
    wrong = row(records(1)[0])
    if change == "missing":
        del wrong.conversations[1]
    else:
        wrong.conversations.append(wrong.conversations[0])
    commit(pass_, [wrong], "b_000000")
    assert "1 images do not have exactly the kinds conversation, detail. For example: 'im0.png'" in only_problem(store)


def test_what_is_no_data_set_cannot_be_verified(tmp_path):
    with pytest.raises(StoreError, match="holds no data set"):
        verify(tmp_path)


def test_the_digest_depends_on_what_is_said_and_on_nothing_else(tmp_path):
    first, second = finished(tmp_path / "a"), finished(tmp_path / "b")
    (pass_,) = second.passes()
    for folder, ending in ((pass_.rows_dir, "-0.parquet"), (pass_.checkpoint_dir, ".parquet")):
        (folder / f"b_000000{ending}").rename(folder / f"z_000000{ending}")
    assert digest(first.path) == digest(second.path)
    commit(pass_, [row(record, colour=200) for record in records(3)], "z_000000")
    assert digest(first.path) != digest(second.path)


def test_a_failed_image_counts_in_the_digest_and_a_missing_one_differs_from_it(tmp_path):
    whole, lacking = finished(tmp_path / "a", num=2), finished(tmp_path / "b", num=2)
    (lacking.passes()[0].rows_dir / "b_000001-0.parquet").unlink()
    assert digest(whole.path) != digest(lacking.path)
