from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
from datasets import REQUEST, commit, finished, records, row

from vigc.platform.files import only_writer, written_whole
from vigc.platform.records import ConfigError, InputError, StoreError
from vigc.platform.store import Store


def test_a_pass_remembers_its_request_and_its_images(tmp_path):
    store = Store(tmp_path / "out")
    assert (store.exists(), store.find_pass(REQUEST)) == (False, None)
    store.create_pass(REQUEST, records(3))
    found = Store(tmp_path / "out").find_pass(REQUEST)
    assert (found.number, found.num_requested, found.remaining()) == ("001", 3, 3)
    assert list(found.image_ids()) == ["im0.png", "im1.png", "im2.png"]


def test_the_manifest_is_cut_into_shards_without_losing_or_reordering_any(tmp_path, monkeypatch):
    monkeypatch.setattr("vigc.platform.passes.RECORDS_PER_SHARD", 4)
    made = Store(tmp_path / "out").create_pass(REQUEST, iter(records(10)))
    assert len(made.listed("manifest")) == 3
    assert list(made.image_ids()) == [record.image_id for record in records(10)]


def test_tuples_and_key_order_make_no_difference_to_a_request(tmp_path):
    store = Store(tmp_path)
    store.create_pass({**REQUEST, "kinds": ("a", "b")}, records(1))
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


def test_two_images_with_one_id_or_none_at_all_leave_nothing_behind(tmp_path):
    for wrong in ([*records(2), *records(1)], []):
        with pytest.raises(InputError):
            Store(tmp_path / "out").create_pass(REQUEST, wrong)
        assert not (tmp_path / "out").exists()


def test_a_request_without_kinds_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="at least one kind"):
        Store(tmp_path / "out").create_pass({"kinds": []}, records(1))


def test_the_same_request_is_not_created_twice(tmp_path):
    store = finished(tmp_path / "out")
    with pytest.raises(StoreError, match="Run the same command"):
        store.create_pass(REQUEST, records(2))
    assert len(store.passes()) == 1


@pytest.mark.parametrize("stage", ["before the request", "before the manifest"])
def test_a_kill_while_a_pass_is_created_leaves_nothing_that_counts(tmp_path, stage):
    code = f"""
        import os, signal
        from datasets import REQUEST, records
        from vigc.platform import passes
        from vigc.platform.store import Store
        die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
        if {stage!r} == "before the request":
            passes.write_json = die
        else:
            passes.pq.write_table = die
        Store({str(tmp_path / "out")!r}).create_pass(REQUEST, records(3))
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)]).returncode == -signal.SIGKILL
    store = Store(tmp_path / "out")
    assert os.listdir(store.path / "passes") == ["001"]
    assert store.find_pass(REQUEST) is None
    assert store.create_pass(REQUEST, records(2)).num_requested == 2


def test_a_full_disk_is_one_clear_error_and_nothing_is_half_written(tmp_path):
    code = f"""
        import resource, signal
        from datasets import REQUEST, records
        from vigc.platform.records import StoreError
        from vigc.platform.store import Store
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        try:
            Store({str(tmp_path / "out")!r}).create_pass(REQUEST, records(5000))
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
            Store(out).create_pass(REQUEST, records(1))
    with pytest.raises(StoreError, match="is a file"):
        Store(tmp_path / "file").find_pass(REQUEST)
    assert (tmp_path / "file").read_text() == "precious"


def test_out_that_cannot_be_written_is_refused():
    with pytest.raises(StoreError, match="/proc/vigc: "):
        Store("/proc/vigc").create_pass(REQUEST, records(1))


def test_foreign_files_are_neither_joined_nor_deleted(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    store = Store(tmp_path)
    for attempt in (lambda: store.find_pass(REQUEST), lambda: store.create_pass(REQUEST, records(1)), store.overwrite):
        with pytest.raises(StoreError, match=r"thesis\.tex"):
            attempt()
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_overwrite_removes_a_data_set_but_not_with_foreign_files_in_it(tmp_path):
    store = finished(tmp_path / "out")
    (store.path / "notes.txt").write_text("precious")
    with pytest.raises(StoreError, match=r"notes\.txt"):
        store.overwrite()
    assert store.exists()
    (store.path / "notes.txt").unlink()
    store.overwrite()
    assert not store.path.exists()
    store.overwrite()


def test_only_committed_rows_are_read(tmp_path):
    store = finished(tmp_path / "out")
    (pass_,) = store.passes()
    (pass_.checkpoint_dir / "b_000001.parquet").rename(pass_.checkpoint_dir / "b_000001.pending.parquet")
    assert sorted(found["image_id"] for found in store.rows()) == ["im0.png", "im1.png", "im2.png"]
    assert pass_.remaining() == 3
    pass_.discard_uncommitted()
    assert pass_.listed("rows") == ["b_000000-0.parquet"]
    assert pass_.listed("_checkpoint") == ["b_000000.parquet"]


def test_a_newer_pass_replaces_the_kinds_it_answers_and_no_others(tmp_path):
    store = finished(tmp_path / "out", num=2, failed=1)
    again = {**REQUEST, "kinds": ["detail"]}
    newer = store.create_pass(again, records(2))
    assert newer.number == "002"
    detail = [row(record, colour=99) for record in records(2)]
    for one in detail:
        del one.conversations[0]
    commit(newer, detail, "c_000000")
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
    newer = store.create_pass({**REQUEST, "retry": 1}, records(2)[1:])
    commit(newer, [row(records(2)[1], colour=5)], "c_000000")
    assert [(found["image_id"], found["status"]) for found in store.rows()] == [("im1.png", "ok"), ("im0.png", "ok")]


def test_runs_are_noted_one_after_the_other(tmp_path):
    (pass_,) = finished(tmp_path / "out").passes()
    first, second = pass_.add_run({"ray": "2.60.0"}), pass_.add_run({"ray": "2.61.0"})
    assert (first.name, second.name) == ("001.json", "002.json")
    assert json.loads(first.read_text()) == {"ray": "2.60.0"}


def test_a_reader_of_no_data_set_is_told_how_to_make_one(tmp_path):
    with pytest.raises(StoreError, match="vigc generate"):
        list(Store(tmp_path).rows())


def test_a_damaged_file_is_an_error_that_leads_to_verify(tmp_path):
    store = finished(tmp_path / "out")
    (store.passes()[0].rows_dir / "b_000000-0.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(StoreError, match="vigc verify"):
        list(store.rows())
    (store.path / "passes" / "001" / "request.json").write_text("{")
    with pytest.raises(StoreError, match="not JSON"):
        store.passes()


def test_a_second_writer_is_refused_until_the_first_is_gone_even_by_kill(tmp_path):
    code = f"""
        import time
        from pathlib import Path
        from vigc.platform.files import only_writer
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
