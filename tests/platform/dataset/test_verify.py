from __future__ import annotations

import pytest
from datasets import REQUEST, commit, finished, leave, records, row, source, table

from vigc.platform.dataset.digest import digest
from vigc.platform.dataset.layout import Block, block_file, sha256_of
from vigc.platform.dataset.ledger import as_parquet, count
from vigc.platform.dataset.merging import Merger
from vigc.platform.dataset.store import Store
from vigc.platform.dataset.verify import verify
from vigc.platform.records import StoreError
from vigc.platform.report.summary import write_summary


@pytest.fixture(params=["blocks", "merged"])
def store(request, tmp_path):
    """Six images in two blocks, or in the file that these were merged into."""
    made = finished(tmp_path / "out")
    if request.param == "merged":
        (pass_,) = made.passes()
        merger = Merger(pass_.folder, pass_.ledger())
        merger.finish()
        merger.close()
    return made


def first_file(store):
    """The path of a file of committed rows, with how many images are in it."""
    (pass_,) = store.passes()
    ledger = pass_.ledger()
    (name, num) = (ledger.finished[0].file, 6) if ledger.finished else (ledger.blocks[Block(0, 0)].file, 3)
    return pass_.folder.path / name, num


def test_a_whole_data_set_verifies(store):
    write_summary(store)
    found = verify(str(store))
    assert (found.ok, found.num_requested, found.num_rows, found.num_failed) == (True, 6, 6, 1)
    assert (found.missing, found.doubled) == ([], [])


def test_a_committed_file_that_is_gone_is_found_with_its_images(store):
    path, num = first_file(store)
    path.unlink()
    found = verify(str(store))
    assert found.num_missing == 2 * num
    assert found.missing[:2] == [("im0.png", "conversation"), ("im0.png", "detail")]
    assert f"{num} images have no row" in found.problems[-1]
    assert "'im0.png'" in found.problems[-1]


def test_following_the_advice_for_a_damaged_file_makes_its_images_remaining_again(store):
    path, num = first_file(store)
    path.write_bytes(path.read_bytes()[:-100])
    damaged, lacking = verify(str(store)).problems
    assert f"{path} is not as it was committed. To make its rows again, delete it" in damaged
    assert f"{num} images have no row" in lacking
    (pass_,) = store.passes()
    path.unlink()
    for finished_ in pass_.ledger().finished:
        assert f"{pass_.folder}/{finished_.marker}" in damaged
        pass_.folder.delete(finished_.marker)
    assert pass_.remaining() == num


def test_a_single_bit_that_changed_is_found(store):
    path, _ = first_file(store)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert f"{path} is not as it was committed" in verify(str(store)).problems[0]


def test_what_counts_for_nothing_is_found(store):
    (pass_,) = store.passes()
    leave(pass_.folder, "rows/00000/000000-ffffffffffffffff.parquet", [])
    pass_.folder.write("rows/0123456789abcdef.parquet", b"")
    problems = verify(str(store)).problems
    assert len(problems) == 2
    assert all("counts for nothing. To clear it away, run the same `vigc generate` again." in p for p in problems)


def put(pass_, number, rows):
    """A block with rows that no run would commit."""
    made = table(rows)
    data = as_parquet(made, count(made))
    for block, committed in pass_.ledger().blocks.items():
        if block.number == number:
            pass_.folder.delete(committed.file)
    pass_.folder.write(block_file(Block(0, number), sha256_of(data)), data)


def test_a_row_too_many_is_found(tmp_path):
    (pass_,) = finished(tmp_path / "out").passes()
    put(pass_, 0, [row(record) for record in (*records(3), records(1)[0])])
    found = verify(tmp_path / "out")
    assert found.problems == ["Pass 001: 1 images have more than one row. For example: 'im0.png'."]
    assert (found.num_doubled, found.doubled[0], found.num_missing) == (2, ("im0.png", "conversation"), 0)


def test_a_row_that_nobody_asked_for_is_found(tmp_path):
    (pass_,) = finished(tmp_path / "out").passes()
    put(pass_, 0, [row(record) for record in (*records(3), records(8)[7])])
    assert "never asked for. For example: 'im7.png'" in verify(tmp_path / "out").problems[0]


@pytest.mark.parametrize("change", ["missing", "twice", "another"])
def test_an_ok_row_without_exactly_its_kinds_is_found(tmp_path, change):
    (pass_,) = finished(tmp_path / "out").passes()
    rows = [row(record) for record in records(3)]
    spoken = rows[1].conversations
    match change:
        case "missing":
            del spoken[1]
        case "twice":
            spoken.append(spoken[0])
        case "another":
            spoken[1] = spoken[0]
    put(pass_, 0, rows)
    (problem,) = verify(tmp_path / "out").problems
    assert "1 images do not have exactly the kinds conversation, detail. For example: 'im1.png'" in problem


def test_a_manifest_that_is_gone_short_or_damaged_is_found(tmp_path):
    (pass_,) = finished(tmp_path / "out").passes()
    manifest = pass_.folder.path / "manifest/00000.parquet"
    whole = manifest.read_bytes()
    shorter = Store(tmp_path / "other").create_pass(REQUEST, source(4)).folder.read("manifest/00000.parquet")
    for content, complaint in (
        (None, "cannot be read"),
        (whole[:50], "cannot be read"),
        (shorter, "has 4 images instead"),
    ):
        manifest.unlink(missing_ok=True)
        if content is not None:
            manifest.write_bytes(content)
        assert complaint in verify(tmp_path / "out").problems[0]


def test_a_summary_that_says_something_else_is_found(store):
    write_summary(store)
    text = store.folder.read_text("summary.json")
    store.folder.write("summary.json", text.replace('"num_failed": 1', '"num_failed": 0').encode())
    (problem,) = verify(str(store)).problems
    assert "summary.json says num_failed 0, but it is 1" in problem
    store.folder.write("summary.json", b"{")
    assert "summary.json is not JSON" in verify(str(store)).problems[0]


def test_several_passes_are_verified_each_and_together(tmp_path):
    store = finished(tmp_path / "out", num=2, failed=1)
    newer = store.create_pass({**REQUEST, "retry": 1}, source(2))
    assert "Pass 002: 2 images have no row" in verify(tmp_path / "out").problems[0]
    for number, record in enumerate(records(2)):
        commit(newer, [row(record)], number)
    write_summary(store)
    found = verify(tmp_path / "out")
    assert found.problems == []
    assert [(one["pass"], one["num_rows"], one["num_failed"]) for one in found.passes] == [("001", 2, 1), ("002", 2, 0)]


def test_what_is_no_data_set_cannot_be_verified(tmp_path):
    with pytest.raises(StoreError, match="holds no data set"):
        verify(tmp_path)


def test_the_digest_depends_on_what_is_said_and_on_nothing_else(store, tmp_path):
    other = finished(tmp_path / "b")
    assert digest(str(store)) == digest(tmp_path / "b")
    (pass_,) = other.passes()
    put(pass_, 0, [row(record, colour=200) for record in records(3)])
    assert digest(str(store)) != digest(tmp_path / "b")


def test_a_failed_image_counts_in_the_digest_and_a_missing_one_differs_from_it(tmp_path):
    lacking = finished(tmp_path / "b", num=2)
    finished(tmp_path / "a", num=2)
    (pass_,) = lacking.passes()
    pass_.folder.delete(pass_.ledger().blocks[Block(0, 1)].file)
    assert digest(tmp_path / "a") != digest(tmp_path / "b")
