"""The same promises for every kind of folder, on a real disk and a real S3 server, and what each says when it fails."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faulty_proxy import (
    FaultyProxy,
    bad_gateway,
    elsewhere,
    garbled,
    lost_answer,
    partly,
    reset,
    silent,
    slow_down,
    torn_answer,
)
from ports import free_port
from s3_server import S3Server
from waiting import WAIT_S, wait_until

from vigc.platform.records import ConfigError, StoreError
from vigc.platform.storage import Entry, Folder, open_folder
from vigc.platform.storage.retry import PATIENCE_S

ODD_NAMES = [
    *("with space.txt", "hash#tag", "100%25.txt", "a+b=c&d?e", "größe.json", "📷/🖼️.txt", "new\nline", "quote'\"<x>"),
    *(".hidden", "-dash", "deep/er/and/deeper/still", "trailing ", "~tilde"),
]
TABLE = pa.table({"n": list(range(1000)), "text": [f"row {n}" for n in range(1000)]})


@pytest.fixture(params=["local", "s3", "gcs"])
def folder(request: pytest.FixtureRequest, tmp_path) -> Folder:
    if request.param == "local":
        return open_folder(tmp_path / "data")
    return open_folder(request.getfixturevalue(f"{request.param}_place"))


# What every folder promises.


def test_a_file_is_read_as_it_was_written_and_replaced_as_a_whole(folder: Folder):
    folder.write("a/b.bin", b"\x00\xff" * 1000)
    assert folder.read("a/b.bin") == b"\x00\xff" * 1000
    folder.write("a/b.bin", b"short")
    assert folder.read("a/b.bin") == b"short"
    folder.write("empty", b"")
    assert folder.read("empty") == b""
    with pytest.raises(FileNotFoundError):
        folder.read("a/absent")
    with pytest.raises(FileNotFoundError):
        folder.read("a/b.bin.not")


def test_a_reader_sees_one_whole_version_while_a_writer_replaces_it(folder: Folder):
    versions = [bytes([n]) * 300_000 for n in range(8)]
    folder.write("x", versions[0])
    done = threading.Event()

    def write() -> None:
        for version in versions * 2:
            folder.write("x", version)
        done.set()

    with ThreadPoolExecutor() as pool:
        writing = pool.submit(write)
        num_read = 0
        while not done.is_set():
            assert folder.read("x") in versions
            num_read += 1
            if writing.done():
                break
        writing.result()
    assert num_read > 1


def test_odd_names_are_kept(folder: Folder):
    for name in ODD_NAMES:
        folder.write(name, name.encode())
    assert [entry.name for entry in folder.files()] == sorted(ODD_NAMES)
    assert folder.files("📷") == [Entry("📷/🖼️.txt", len("📷/🖼️.txt".encode()))]
    assert folder.names() == sorted({name.split("/")[0] for name in ODD_NAMES})
    for name in ODD_NAMES:
        assert folder.read(name) == name.encode()
    folder.delete(*ODD_NAMES)
    assert folder.files() == []


def test_names_and_files_of_a_folder_that_is_not_there_are_none(folder: Folder):
    assert not folder.exists()
    assert folder.names() == folder.files() == folder.names("no") == folder.files("no/such") == []
    folder.delete_all()
    folder.delete_all("no")
    assert not folder.exists()


def test_a_folder_is_not_taken_for_another_whose_name_begins_alike(folder: Folder):
    (folder / "out2").write("x", b"2")
    out = folder / "out"
    assert not out.exists()
    assert out.names() == out.files() == []
    out.delete_all()
    folder.delete_all("out")
    assert (folder / "out2").exists()
    assert [entry.name for entry in folder.files()] == ["out2/x"]
    assert folder.names() == ["out2"]


@pytest.mark.parametrize("folder", ["local", "s3"], indirect=True)  # Google's emulator would take minutes
def test_more_files_than_one_page_of_a_listing_are_all_found_and_all_deleted(folder: Folder):
    names = [f"many/{n:04}" for n in range(1500)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: folder.write(name, b"x"), names))
    folder.write("beside", b"xy")
    assert [entry.name for entry in folder.files("many")] == names
    assert folder.names("many") == [name.removeprefix("many/") for name in names]
    assert folder.files()[0] == Entry("beside", 2)
    folder.delete(*names[:1200])
    assert [entry.name for entry in folder.files("many")] == names[1200:]
    folder.delete_all("many")
    assert [entry.name for entry in folder.files()] == ["beside"]
    assert not (folder / "many").exists()


def test_files_lists_every_depth_with_names_relative_to_the_folder_asked(folder: Folder):
    names = [*(f"{a}/{b}/{c}/file" for a in "abc" for b in "defg" for c in "hij"), "top"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: folder.write(name, b"123"), names))
    assert folder.files() == [Entry(name, 3) for name in names]
    assert [entry.name for entry in folder.files("a/d")] == ["a/d/h/file", "a/d/i/file", "a/d/j/file"]
    assert [entry.name for entry in (folder / "a").files("d")] == ["d/h/file", "d/i/file", "d/j/file"]
    assert folder.names() == ["a", "b", "c", "top"]
    assert folder.names("a/d") == ["h", "i", "j"]


def test_deleting_what_is_not_there_is_no_error(folder: Folder):
    folder.write("x", b"1")
    folder.delete("absent", "x", "no/such/folder/file")
    folder.delete()
    assert folder.files() == []


def test_thirty_megabytes_are_uploaded_as_they_are(folder: Folder, tmp_path):
    data = os.urandom(30 * 2**20)
    path = tmp_path / "big"
    path.write_bytes(data)
    folder.upload("deep/big", path)
    assert folder.files() == [Entry("deep/big", len(data))]
    assert folder.read("deep/big") == data
    with pytest.raises(FileNotFoundError):
        folder.upload("x", tmp_path / "absent")


def test_a_text_whose_writing_fails_leaves_the_old_one(folder: Folder):
    with folder.new_text("t.txt") as file:
        file.write("größer\n")
    with pytest.raises(ZeroDivisionError), folder.new_text("t.txt") as file:  # noqa: PT012
        file.write("new, but")
        raise ZeroDivisionError
    assert folder.read_text("t.txt") == "größer\n"
    assert folder.names() == ["t.txt"]


def test_arrow_writes_and_reads_parquet_in_the_folder(folder: Folder):
    folder.arrow.create_dir("rows", recursive=True)
    for name in ("rows/a.parquet", "rows/größe #1 100%.parquet"):
        folder.retry(lambda name=name: pq.write_table(TABLE, name, filesystem=folder.arrow))
        assert folder.open_parquet(name).read() == TABLE
    assert folder.names("rows") == ["a.parquet", "größe #1 100%.parquet"]
    assert pq.read_table("rows", filesystem=folder.arrow).num_rows == 2 * TABLE.num_rows
    with pytest.raises(FileNotFoundError):
        folder.open_parquet("rows/absent.parquet")
    folder.write("rows/torn.parquet", b"PAR1 torn")
    with pytest.raises(pa.ArrowInvalid):
        folder.open_parquet("rows/torn.parquet")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_folder_works_in_another_process(folder: Folder, method):
    folder.write("from", b"parent")
    assert pickle.loads(pickle.dumps(folder)) == folder
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply_async(_work_elsewhere, (folder,)).get(WAIT_S) == b"parent"
    assert folder.read("to") == b"child"


def _work_elsewhere(folder: Folder) -> bytes:
    folder.write("to", b"child")
    return folder.read("from")


def test_addresses_mean_what_they_say(tmp_path, monkeypatch, s3_place):
    monkeypatch.chdir(tmp_path)
    assert open_folder("a/").uri == open_folder(f"file://{tmp_path}/a").uri == f"{tmp_path}/a"
    assert open_folder(f"{s3_place}//x//").uri == f"{s3_place}/x"
    assert str(open_folder(s3_place) / "a") == f"{s3_place}/a"
    for address, word in [("http://x/y", "not there"), ("s3://", "no bucket"), ("gs:///", "no bucket")]:
        with pytest.raises(ConfigError, match=word):
            open_folder(address)


# What a disk refuses.


WRITE = """
import os, sys
from vigc.platform.records import StoreError
from vigc.platform.storage import open_folder
if os.getuid() == 0:  # whom no permission stops
    os.setuid(65534)
for place in sys.argv[1:]:
    try:
        open_folder(place).write("x", b"new")
    except StoreError as error:
        print(error)
"""


def test_a_folder_that_may_not_be_written_says_so():
    with tempfile.TemporaryDirectory() as place:
        locked, file = Path(place) / "locked", Path(place) / "file"
        locked.mkdir()
        for path in (locked / "x", file):
            path.write_bytes(b"old")
        locked.chmod(0o555)
        os.chmod(place, 0o755)
        places = [str(locked), str(locked / "new"), str(file)]
        done = subprocess.run([sys.executable, "-c", WRITE, *places], capture_output=True, text=True)
        locked.chmod(0o755)
        assert done.stdout.splitlines() == [
            f"{locked}/x: no permission. Choose another folder, or change its permissions.",
            f"{locked}/new/x: no permission. Choose another folder, or change its permissions.",
            f"{file}/x: a file stands where a folder is needed. Choose another folder.",
        ], done.stderr
        assert (locked / "x").read_bytes() == file.read_bytes() == b"old"


def test_a_full_disk_says_so_and_leaves_the_old_file(tmp_path):
    folder = open_folder(tmp_path / "data")
    folder.write("x", b"old")
    big = tmp_path / "big"
    big.write_bytes(b"b" * 300_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        for attempt in (
            lambda: folder.write("x", b"n" * 200_000),
            lambda: folder.upload("x", big),
            lambda: _write_text(folder, "x", "n" * 200_000),
        ):
            with pytest.raises(StoreError, match="grew past the size limit"):
                attempt()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert folder.read("x") == b"old"
    assert os.listdir(tmp_path / "data") == ["x"]


def _write_text(folder: Folder, name: str, text: str) -> None:
    with folder.new_text(name) as file:
        file.write(text)


def test_links_to_nowhere_and_half_written_files_are_not_listed_and_hide_nothing(tmp_path):
    folder = open_folder(tmp_path)
    for name in ("a", "m", "z"):
        folder.write(name, b"1")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / ".m.1-2.tmp").write_bytes(b"half")
    assert [entry.name for entry in folder.files()] == ["a", "m", "z"]


# What S3 refuses: one line, at once, never tried again.


def _refusal(place: str) -> str:
    started = time.monotonic()
    with pytest.raises((StoreError, ConfigError)) as caught:
        open_folder(place)
    assert time.monotonic() - started < PATIENCE_S / 2
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_wrong_secret_says_so(s3_place, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert "the secret key is wrong. Check AWS_ACCESS_KEY_ID" in _refusal(s3_place)


def test_a_wrong_key_says_so(s3_place, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    assert "there is no such access key. Check AWS_ACCESS_KEY_ID" in _refusal(s3_place)


def test_a_missing_bucket_says_so(s3_place):
    message = _refusal("s3://no-such-bucket/out")
    assert message.startswith("s3://no-such-bucket: there is no such bucket")


def test_a_name_that_no_bucket_can_have_says_so(s3_place):
    assert "s3://not a bucket: " in _refusal("s3://not a bucket/out")


def test_a_closed_port_says_so(s3_place, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    assert "Check AWS_ENDPOINT_URL" in _refusal(s3_place)


def test_a_server_that_accepts_and_never_answers_says_so(s3_place, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert "the storage does not answer" in _refusal(s3_place)


def test_an_endpoint_that_is_no_address_says_so(s3_place, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost")
    assert "Check AWS_ENDPOINT_URL" in _refusal(s3_place)


def test_no_credentials_at_all_says_so(s3_place, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "no credentials" in _refusal(s3_place)


def test_an_unknown_profile_says_so(s3_place, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    message = _refusal(s3_place)
    assert "nobody" in message
    assert "AWS_PROFILE" in message


def test_a_patience_that_is_no_number_says_so(s3_place, monkeypatch):
    monkeypatch.setenv("VIGC_STORAGE_PATIENCE_S", "long")
    with pytest.raises(ConfigError, match="VIGC_STORAGE_PATIENCE_S"):
        open_folder(s3_place).exists()


def test_a_profile_with_keys_and_endpoint_is_enough_for_files_and_for_parquet(
    s3: S3Server, s3_place, monkeypatch, tmp_path
):
    keys = f"[there]\naws_access_key_id={s3.env['AWS_ACCESS_KEY_ID']}\n"
    (tmp_path / "credentials").write_text(f"{keys}aws_secret_access_key={s3.env['AWS_SECRET_ACCESS_KEY']}\n")
    (tmp_path / "config").write_text(f"[profile there]\nregion=us-east-1\nendpoint_url={s3.url}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "there")
    folder = open_folder(s3_place)
    pq.write_table(TABLE, "x.parquet", filesystem=folder.arrow)
    assert folder.files()[0].name == "x.parquet"
    assert folder.open_parquet("x.parquet").read() == TABLE


# What passes: tried again, with growing waits, for as long as VIGC_STORAGE_PATIENCE_S says.


@pytest.fixture
def proxy(s3: S3Server, s3_place, monkeypatch):
    monkeypatch.setattr("vigc.platform.storage.retry.FIRST_WAIT_S", 0.1)
    proxy = FaultyProxy(s3.port)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    yield proxy
    proxy.close()


@pytest.mark.parametrize("fault", [slow_down, bad_gateway, reset, lost_answer, torn_answer])
def test_requests_that_fail_for_a_while_are_tried_again_with_growing_waits(proxy: FaultyProxy, s3_place, fault):
    folder = open_folder(s3_place)
    folder.write("x", b"old" * 1000)
    for attempt, expected in [
        (lambda: folder.read("x"), b"old" * 1000),
        (lambda: [entry.name for entry in folder.files()], ["x"]),
        (lambda: folder.write("x", b"new"), None),
        (lambda: folder.delete("x"), None),
    ]:
        proxy.fail(fault, 4)
        assert attempt() == expected
        times = [moment for moment, _, _ in proxy.requests]
        assert [failed for _, _, failed in proxy.requests] == [True] * 4 + [False]
        for number, wait_s in enumerate(b - a for a, b in itertools.pairwise(times)):
            assert wait_s >= 0.05 * 2**number


def test_an_answer_that_makes_no_sense_is_asked_for_again(proxy: FaultyProxy, s3_place):
    folder = open_folder(s3_place)
    folder.write("x", b"1")
    proxy.fail(garbled, 2)
    assert folder.names() == ["x"]
    assert len(proxy.requests) == 3


def test_a_large_upload_gets_through_a_busy_server(proxy: FaultyProxy, s3_place, tmp_path):
    data = os.urandom(20 * 2**20)
    (tmp_path / "big").write_bytes(data)
    folder = open_folder(s3_place)
    proxy.fail(slow_down, 4, "PUT")
    folder.upload("big", tmp_path / "big")
    # Three parts of 8 MiB at most, none of them sent again because of another.
    assert sorted(failed for _, what, failed in proxy.requests if what.startswith("PUT")) == [False] * 3 + [True] * 4
    assert folder.read("big") == data


def test_files_that_are_refused_one_by_one_are_deleted_in_the_end_or_named(proxy: FaultyProxy, s3_place):
    folder = open_folder(s3_place)
    folder.write("x", b"1")
    proxy.fail(partly("InternalError"), 2, "POST")
    folder.delete("x")
    assert [failed for _, _, failed in proxy.requests] == [True, True, False]
    assert folder.files() == []
    proxy.fail(partly("AccessDenied"), 1, "POST")
    with pytest.raises(StoreError, match="access is denied"):
        folder.delete("x")
    assert len(proxy.requests) == 1


def test_parquet_is_asked_for_in_the_region_where_the_bucket_lies(proxy: FaultyProxy, s3_place):
    folder = open_folder(s3_place)
    proxy.fail(elsewhere, 1)
    assert folder.arrow.base_fs.region == "eu-west-1"


def test_a_server_that_falls_silent_is_asked_again(proxy: FaultyProxy, s3_place, monkeypatch):
    folder = open_folder(s3_place)
    folder.write("x", b"1")
    monkeypatch.setattr("vigc.platform.storage.s3.READ_TIMEOUT_S", 1.0)
    proxy.fail(silent, 2)
    assert folder.read("x") == b"1"
    assert len(proxy.requests) == 3


@pytest.mark.parametrize("fault", [slow_down, bad_gateway, reset])
def test_parquet_gets_through_a_busy_server(proxy: FaultyProxy, s3_place, fault, monkeypatch):
    monkeypatch.setattr("vigc.platform.storage.s3.ARROW_ATTEMPTS", 1)  # so that ours, not pyarrow's, are seen
    folder = open_folder(s3_place)
    folder.retry(lambda: pq.write_table(TABLE, "x.parquet", filesystem=folder.arrow))
    proxy.fail(fault, 3)
    file = folder.open_parquet("x.parquet")
    assert sum(failed for _, _, failed in proxy.requests) == 3
    proxy.fail(fault, 3)
    assert folder.retry(lambda: file.read_row_group(0)) == TABLE
    assert sum(failed for _, _, failed in proxy.requests) == 3


def test_what_cannot_pass_is_asked_for_once(proxy: FaultyProxy, s3_place, monkeypatch):
    folder = open_folder(s3_place)
    folder.write("x.parquet", b"x")
    folder.arrow.get_file_info("x.parquet")
    proxy.fail(slow_down, 0)
    with pytest.raises(FileNotFoundError):
        folder.read("absent")
    with pytest.raises(FileNotFoundError):
        folder.open_parquet("absent.parquet")
    with pytest.raises(StoreError, match="no such bucket"):
        open_folder("s3://no-such-bucket")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreError, match="the secret key is wrong"):
        folder.write("x", b"1")
    asked = [what.split("?")[0] for _, what, _ in proxy.requests]
    assert len([what for what in asked if "/absent" in what and ".parquet" not in what]) == 1
    assert len([what for what in asked if "no-such-bucket" in what]) == 1
    assert len([what for what in asked if what.startswith("PUT")]) == 1


def test_parquet_that_may_not_be_read_is_refused_in_one_line(s3_place, monkeypatch):
    folder = open_folder(s3_place)
    pq.write_table(TABLE, "x.parquet", filesystem=folder.arrow)
    arrow = folder.arrow
    monkeypatch.setattr("vigc.platform.storage.s3._arrow", lambda settings, bucket: _with_wrong_key(arrow))
    started = time.monotonic()
    with pytest.raises(StoreError, match=f"^{folder.uri}: .*[Cc]heck"):
        folder.open_parquet("x.parquet")
    assert time.monotonic() - started < PATIENCE_S / 2


def _with_wrong_key(arrow: pa.fs.SubTreeFileSystem) -> pa.fs.S3FileSystem:
    endpoint = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    return pa.fs.S3FileSystem(access_key="nobody", secret_key="x", endpoint_override=endpoint, scheme="http")


def test_patience_ends_when_the_environment_says(s3_place, monkeypatch):
    folder = open_folder(s3_place)
    monkeypatch.setenv("VIGC_STORAGE_PATIENCE_S", "3")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"stayed so for 3 s .*the same command goes on from there"):
        folder.read("x")
    assert 1 < time.monotonic() - started < PATIENCE_S


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back_stops_neither_reader_nor_writer(s3: S3Server, s3_place, tmp_path):
    folder = open_folder(s3_place)
    pq.write_table(TABLE, "x.parquet", filesystem=folder.arrow)
    (tmp_path / "big").write_bytes(b"b" * 10 * 2**20)
    stop = threading.Event()
    num_written, num_read = 0, 0

    def write() -> None:
        nonlocal num_written
        while not stop.is_set():
            folder.write(f"small/{num_written:05}", str(num_written).encode())
            folder.upload("big", tmp_path / "big")
            num_written += 1

    def read() -> None:
        nonlocal num_read
        while not stop.is_set():
            file = folder.open_parquet("x.parquet")
            assert folder.retry(lambda file=file: file.read_row_group(0)) == TABLE
            assert folder.exists()
            num_read += 1

    def wait_for_more() -> None:
        written, read = num_written, num_read
        wait_until(lambda: any(loop.done() for loop in loops) or (num_written > written and num_read > read))

    with ThreadPoolExecutor() as pool:
        loops = [pool.submit(write), pool.submit(read)]
        try:
            wait_for_more()
            s3.kill()
            time.sleep(5)
            assert not any(loop.done() for loop in loops)
            s3.start()
            wait_for_more()
        finally:
            stop.set()
        for loop in loops:
            loop.result(WAIT_S)
    assert [entry.name for entry in folder.files("small")] == [f"small/{n:05}" for n in range(num_written)]
    assert [int(folder.read(f"small/{n:05}")) for n in range(num_written)] == list(range(num_written))


@pytest.mark.slow
def test_parquet_waits_for_a_server_that_is_down_for_a_while(s3: S3Server, s3_place, monkeypatch):
    monkeypatch.setattr("vigc.platform.storage.s3.ARROW_ATTEMPTS", 1)
    folder = open_folder(s3_place)
    pq.write_table(TABLE, "x.parquet", filesystem=folder.arrow)
    s3.kill()
    try:
        with ThreadPoolExecutor() as pool:
            reading = pool.submit(lambda: folder.open_parquet("x.parquet").metadata.num_rows)
            time.sleep(4)
            assert not reading.done()
            s3.start()
            assert reading.result(WAIT_S) == TABLE.num_rows
    finally:
        s3.kill()
        s3.start()
