from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
from datasets import REQUEST, commit, finished, leave, records, row, source

from vigc.platform.dataset.digest import digest
from vigc.platform.dataset.layout import Block
from vigc.platform.dataset.ledger import tidy
from vigc.platform.dataset.merging import Merger
from vigc.platform.dataset.store import Store
from vigc.platform.dataset.verify import verify
from vigc.platform.records import ConfigError, InputError, StoreError
from vigc.platform.sources.base import Records
from vigc.platform.storage.files import only_writer, written_whole


def commit_all(pass_, rows):
    """Rows in blocks of the size that the pass has."""
    size = pass_.layout.rows_per_block
    for number in range(pass_.layout.num_blocks(0)):
        commit(pass_, rows[number * size : (number + 1) * size], number)


def test_a_pass_remembers_its_request_and_its_images(tmp_path):
    store = Store(tmp_path / "out")
    assert (store.exists(), store.find_pass(REQUEST)) == (False, None)
    store.create_pass(REQUEST, source(3))
    found = Store(tmp_path / "out").find_pass(REQUEST)
    assert (found.number, found.num_requested, found.remaining()) == ("001", 3, 3)
    assert list(found.image_ids()) == ["im0.png", "im1.png", "im2.png"]


def test_the_manifest_is_cut_into_shards_without_losing_or_reordering_any(tmp_path, monkeypatch):
    monkeypatch.setattr("vigc.platform.dataset.passes.ROWS_PER_SHARD", 4)
    made = Store(tmp_path / "out").create_pass(REQUEST, source(10))
    assert made.folder.names("manifest") == ["00000.parquet", "00001.parquet", "00002.parquet"]
    assert [made.manifest(shard).num_rows for shard in range(3)] == [4, 4, 2]
    assert list(made.image_ids()) == [record.image_id for record in records(10)]


def test_tuples_and_key_order_make_no_difference_to_a_request(tmp_path):
    store = Store(tmp_path)
    store.create_pass({**REQUEST, "kinds": ("a", "b")}, source(1))
    assert store.find_pass(dict(reversed({**REQUEST, "kinds": ["a", "b"]}.items()))) is not None


def test_another_request_is_refused_and_every_difference_named(tmp_path):
    store = finished(tmp_path / "out")
    other = {**REQUEST, "policy": {"name": "paper", "max_units": 8}, "seed": 1}
    with pytest.raises(StoreError) as caught:
        store.find_pass(other)
    message = str(caught.value)
    assert "policy.max_units: 4 -> 8" in message
    assert "seed: null -> 1" in message
    assert "source" not in message
    assert "--overwrite" in message


def test_of_several_passes_the_one_that_comes_nearest_is_compared(tmp_path):
    store = Store(tmp_path / "out")
    for changes in ({}, {"source": "failed images of pass 001", "kinds": ["detail"]}):
        store.create_pass(REQUEST | changes, source(2))
    with pytest.raises(StoreError, match=r"made with other settings: seed: null -> 1\. Choose"):
        store.find_pass(REQUEST | {"seed": 1})


def test_two_images_with_one_id_or_none_at_all_leave_nothing_behind(tmp_path):
    doubled = Records([*records(3), *records(1)])
    for wrong, message in ((doubled, "'im0.png' comes twice: image 1 and image 4"), (Records([]), "gave no image")):
        with pytest.raises(InputError, match=message):
            Store(tmp_path / "out").create_pass(REQUEST, wrong)
        assert not (tmp_path / "out").exists()


def test_a_request_without_kinds_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="at least one kind"):
        Store(tmp_path / "out").create_pass({"kinds": []}, source(1))


def test_the_same_request_is_not_created_twice(tmp_path):
    store = finished(tmp_path / "out")
    with pytest.raises(StoreError, match="Run the same command"):
        store.create_pass(REQUEST, source(2))
    assert len(store.passes()) == 1


@pytest.mark.parametrize("stage", ["before the request", "before the manifest"])
def test_a_kill_while_a_pass_is_created_leaves_nothing_that_counts(tmp_path, stage):
    code = f"""
        import os, signal
        from datasets import REQUEST, source
        from vigc.platform.dataset import passes
        from vigc.platform.dataset.store import Store
        die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
        if {stage!r} == "before the request":
            write = passes.write_json
            passes.write_json = lambda folder, name, content: (
                die() if name == passes.REQUEST_FILE else write(folder, name, content)
            )
        else:
            passes.pq.write_table = die
        Store({str(tmp_path / "out")!r}).create_pass(REQUEST, source(3))
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)]).returncode == -signal.SIGKILL
    store = Store(tmp_path / "out")
    assert store.folder.files() if stage == "before the request" else not store.folder.names("passes")
    assert store.find_pass(REQUEST) is None
    assert store.create_pass(REQUEST, source(2)).num_requested == 2


def test_a_full_disk_is_one_clear_error_and_nothing_is_half_written(tmp_path):
    code = f"""
        import resource, signal
        from datasets import REQUEST, source
        from vigc.platform.records import StoreError
        from vigc.platform.dataset.store import Store
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        try:
            Store({str(tmp_path / "out")!r}).create_pass(REQUEST, source(5000))
        except StoreError as error:
            print(error)
    """
    said = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert "a file grew past the size limit" in said.stdout
    assert not (tmp_path / "out").exists()


def test_out_that_is_a_file_or_below_one_is_refused(tmp_path):
    (tmp_path / "file").write_text("precious")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(StoreError, match=r"is a file|a file stands where"):
            Store(out).create_pass(REQUEST, source(1))
    with pytest.raises(StoreError, match="a file stands where a folder is needed"):
        Store(tmp_path / "file").find_pass(REQUEST)
    assert (tmp_path / "file").read_text() == "precious"


def test_out_that_cannot_be_written_is_refused():
    with pytest.raises(StoreError, match="/proc/vigc: "):
        Store("/proc/vigc").create_pass(REQUEST, source(1))


def test_foreign_files_are_neither_joined_nor_deleted(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    store = Store(tmp_path)
    for attempt in (lambda: store.find_pass(REQUEST), lambda: store.create_pass(REQUEST, source(1)), store.overwrite):
        with pytest.raises(StoreError, match=r"thesis\.tex"):
            attempt()
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_overwrite_removes_a_data_set_but_not_with_foreign_files_in_it(tmp_path):
    store = finished(tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("precious")
    with pytest.raises(StoreError, match=r"notes\.txt"):
        store.overwrite()
    assert store.exists()
    (tmp_path / "out" / "notes.txt").unlink()
    store.overwrite()
    assert not (tmp_path / "out").exists()
    store.overwrite()


def test_what_is_no_committed_row_is_neither_read_nor_kept(tmp_path):
    store = finished(tmp_path / "out")
    (pass_,) = store.passes()
    leave(pass_.folder, "rows/00000/000000-ffffffffffffffff.parquet", [row(records(1)[0], colour=9)])  # a second one
    leave(pass_.folder, "rows/00000/000007-ffffffffffffffff.parquet", [row(records(1)[0])])  # beyond the last block
    leave(pass_.folder, "rows/0123456789abcdef.parquet", [row(records(1)[0])])  # merged, and no marker
    (tmp_path / "out/passes/001/rows/00000/.x.tmp").write_bytes(b"half")
    assert sorted(found["image_id"] for found in store.rows()) == [record.image_id for record in records(6)]
    assert len(pass_.ledger().orphans) == 3
    tidy(pass_.folder, pass_.ledger())
    assert not (tmp_path / "out/passes/001/rows/00000/.x.tmp").exists()
    assert pass_.ledger().orphans == []
    assert len(pass_.folder.names("rows/00000")) == 2


def test_a_block_that_is_committed_again_stays_what_it_was(tmp_path):
    (pass_,) = finished(tmp_path / "out").passes()
    before = pass_.ledger()
    commit(pass_, [row(record, colour=200) for record in records(3)], 0)
    assert pass_.ledger() == before


def test_a_block_that_was_damaged_is_replaced(tmp_path):
    (pass_,) = finished(tmp_path / "out").passes()
    first = pass_.ledger().blocks[Block(0, 0)].file
    pass_.folder.write(first, b"damaged")
    commit(pass_, [row(record, colour=200) for record in records(3)], 0)
    (found,) = [c for block, c in pass_.ledger().blocks.items() if block.number == 0]
    assert found.file != first
    assert pass_.ledger().orphans == []


def shards_of_four(monkeypatch, out, num, block_rows=2):
    """A pass over three shards, with all its blocks but the last."""
    monkeypatch.setattr("vigc.platform.dataset.passes.ROWS_PER_SHARD", 4)
    pass_ = Store(out).create_pass(REQUEST, source(num), rows_per_block=block_rows)
    made = [row(record, colour=i) for i, record in enumerate(records(num))]
    for shard in range(pass_.layout.num_shards):
        for number in range(pass_.layout.num_blocks(shard)):
            start = shard * 4 + number * block_rows
            commit(pass_, made[start : start + pass_.layout.num_rows_of(Block(shard, number))], number, shard)
    return pass_


def test_merged_shards_read_as_their_blocks_did(tmp_path, monkeypatch):
    pass_ = shards_of_four(monkeypatch, tmp_path / "out", 10)
    before, said = sorted(found["image_id"] for found in pass_.rows()), digest(tmp_path / "out")
    merger = Merger(pass_.folder, pass_.ledger())
    merger.finish()
    merger.close()
    (finished_,) = pass_.ledger().finished
    assert (finished_.shards, finished_.tally.rows, pass_.ledger().blocks) == ([0, 1, 2], 10, {})
    assert [entry.name for entry in pass_.folder.files("rows")] == [finished_.file]
    assert list(pass_.ledger().remaining()) == []
    assert [found["image_id"] for found in pass_.rows()] == before
    assert digest(tmp_path / "out") == said
    assert verify(tmp_path / "out").problems == []


def test_only_whole_shards_are_merged_and_only_when_they_are_large_enough(tmp_path, monkeypatch):
    pass_ = shards_of_four(monkeypatch, tmp_path / "out", 10)
    pass_.folder.delete(pass_.ledger().blocks[Block(1, 1)].file)
    sizes = {block: committed.num_bytes for block, committed in pass_.ledger().blocks.items()}
    monkeypatch.setattr("vigc.platform.dataset.merging.FIRST_GUESS", 1.0)
    monkeypatch.setattr("vigc.platform.dataset.merging.MIN_BYTES", 1 + sum(n for b, n in sizes.items() if b.shard != 1))
    merger = Merger(pass_.folder, pass_.ledger())
    late = commit(pass_, [row(record, colour=i) for i, record in enumerate(records(8))][6:], 1, 1)
    merger.add(Block(1, 1), late)
    merger.finish()
    merger.close()
    assert [one.shards for one in pass_.ledger().finished] == [[0, 1, 2]]
    assert pass_.folder.names("rows") == [pass_.ledger().finished[0].file.removeprefix("rows/")]


@pytest.mark.parametrize("moment", ["before the file", "before the marker", "before the blocks go", "half the blocks"])
def test_a_kill_while_shards_are_merged_loses_and_doubles_nothing(tmp_path, monkeypatch, moment):
    pass_ = shards_of_four(monkeypatch, tmp_path / "out", 10)
    said = digest(tmp_path / "out")
    code = f"""
        import os, signal
        from vigc.platform.dataset.merging import Merger
        from vigc.platform.storage import LocalFolder
        from vigc.platform.dataset.store import Store
        die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
        (pass_,) = Store({str(tmp_path / "out")!r}).passes()
        merger = Merger(pass_.folder, pass_.ledger())
        match {moment!r}:
            case "before the file":
                LocalFolder.upload = die
            case "before the marker":
                LocalFolder.write = die
            case "before the blocks go":
                LocalFolder.delete = die
            case "half the blocks":
                delete = LocalFolder.delete
                LocalFolder.delete = lambda self, *names: (delete(self, *names[: len(names) // 2]), die())
        merger.finish()
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)]).returncode == -signal.SIGKILL
    assert digest(tmp_path / "out") == said
    assert list(pass_.ledger().remaining()) == []
    tidy(pass_.folder, pass_.ledger())
    merger = Merger(pass_.folder, pass_.ledger())
    merger.finish()
    merger.close()
    assert digest(tmp_path / "out") == said
    assert verify(tmp_path / "out").problems == []
    assert len(pass_.folder.files("rows")) == 1


def test_a_reader_gets_each_row_once_while_shards_are_merged_under_it(tmp_path, monkeypatch):
    pass_ = shards_of_four(monkeypatch, tmp_path / "out", 10)
    reading = pass_.batches(["image_id"])
    got = next(reading)["image_id"].to_pylist()
    merger = Merger(pass_.folder, pass_.ledger())
    merger.finish()
    merger.close()
    for batch in reading:
        got += batch["image_id"].to_pylist()
    assert sorted(got) == [record.image_id for record in records(10)]


def test_a_newer_pass_replaces_the_kinds_it_answers_and_no_others(tmp_path):
    store = finished(tmp_path / "out", num=2, failed=1)
    again = {**REQUEST, "kinds": ["detail"]}
    newer = store.create_pass(again, source(2))
    assert newer.number == "002"
    detail = [row(record, colour=99) for record in records(2)]
    for one in detail:
        del one.conversations[0]
    commit_all(newer, detail)
    seen = {}
    for found in store.rows(["image_id", "conversations"]):
        assert sorted(found) == ["conversations", "image_id"]
        for spoken in found["conversations"]:
            seen[found["image_id"], spoken["kind"]] = spoken["answer"]
    assert seen == {
        ("im0.png", "conversation"): "The first pixel is 0-0-0.",
        ("im0.png", "detail"): "The first pixel is 99-0-0.",
        ("im1.png", "detail"): "The first pixel is 99-0-0.",
    }


def test_an_image_that_a_newer_pass_could_read_is_failed_no_more(tmp_path):
    store = finished(tmp_path / "out", num=2, failed=1)
    newer = store.create_pass({**REQUEST, "retry": 1}, Records(records(2)[1:]))
    commit(newer, [row(records(2)[1], colour=5)], 0)
    assert [(found["image_id"], found["status"]) for found in store.rows()] == [("im1.png", "ok"), ("im0.png", "ok")]


def test_runs_are_noted_one_after_the_other(tmp_path):
    (pass_,) = finished(tmp_path / "out").passes()
    first, second = pass_.add_run({"ray": "2.60.0"}), pass_.add_run({"ray": "2.61.0"})
    assert (first, second) == ("runs/001.json", "runs/002.json")
    assert json.loads(pass_.folder.read(first)) == {"ray": "2.60.0"}


def test_a_reader_of_no_data_set_is_told_how_to_make_one(tmp_path):
    with pytest.raises(StoreError, match="vigc generate"):
        list(Store(tmp_path).rows())


def test_a_damaged_file_is_an_error_that_leads_to_verify(tmp_path):
    store = finished(tmp_path / "out")
    (pass_,) = store.passes()
    pass_.folder.write(pass_.ledger().blocks[Block(0, 0)].file, b"PAR1 torn")
    with pytest.raises(StoreError, match="vigc verify"):
        list(store.rows())
    pass_.folder.write("request.json", b"{")
    with pytest.raises(StoreError, match="not JSON"):
        store.passes()


def test_a_second_writer_is_refused_until_the_first_is_gone_even_by_kill(tmp_path):
    code = f"""
        import time
        from pathlib import Path
        from vigc.platform.storage.files import only_writer
        with only_writer(Path({str(tmp_path)!r})):
            print("holding", flush=True)
            time.sleep(60)
    """
    holder = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "holding\n"
    with pytest.raises(StoreError, match=f"process {holder.pid}"), only_writer(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with only_writer(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_a_file_that_could_not_be_finished_leaves_the_old_one(tmp_path):
    def write_half(path):
        with written_whole(path) as file:
            file.write("new, but")
            raise ZeroDivisionError

    path = tmp_path / "x.json"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError):
        write_half(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.json"]
