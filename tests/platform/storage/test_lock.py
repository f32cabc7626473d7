"""One writer at a time, on a real disk and a real S3 server, with real processes that are really killed."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faulty_proxy import FaultyProxy, lost_answer
from processes import start
from s3_server import S3Server
from waiting import WAIT_S, wait_until

from vigc.platform.records import StoreError
from vigc.platform.storage import Folder, ObjectFolder, lock, open_folder
from vigc.platform.storage.files import only_writer as only_local_writer
from vigc.platform.storage.lock import LOCK, only_writer
from vigc.platform.storage.owner import Owner

FORK = multiprocessing.get_context("fork")
HOLD = """
import sys, time
from vigc.platform.storage.lock import only_writer
from vigc.platform.storage import open_folder
with only_writer(open_folder(sys.argv[1])):
    print("holding", flush=True)
    time.sleep(120)
"""


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path) -> Folder:
    if request.param == "local":
        return open_folder(tmp_path / "data")
    return open_folder(request.getfixturevalue("s3_place"))


@pytest.fixture
def bucket_folder(s3_place) -> ObjectFolder:
    folder = open_folder(s3_place)
    assert isinstance(folder, ObjectFolder)
    return folder


def held_elsewhere(folder: Folder) -> subprocess.Popen[str]:
    holder = start(sys.executable, "-c", HOLD, folder.uri)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "holding\n"
    return holder


def take_when_free(folder: Folder) -> None:
    """Takes the lock as soon as it is to be had, and sees that it is this process's."""

    def take() -> bool:
        try:
            with only_writer(folder):
                return bool(json.loads(folder.read(LOCK))["pid"] == os.getpid())
        except StoreError:
            return False

    wait_until(take, pause_s=0.2)


def wait_until_renewed(folder: Folder) -> None:
    before = json.loads(folder.read(LOCK))["renewed"]
    wait_until(lambda: json.loads(folder.read(LOCK))["renewed"] > before, pause_s=0.2)


def written_far_away(folder: Folder, *, released: bool = False, held_s: float = 720.0) -> bytes:
    """A lock that a process on another machine holds and has just renewed."""
    owner = Owner(host="far", pid=4711, place="another boot", began="1", since=1000.0)
    content = owner.json(token="theirs", renewed=1000.0 + held_s, released=released)
    folder.write(LOCK, content)
    return content


def race(folder: Folder, num: int) -> list[str]:
    """What `num` processes that want the lock at the same moment are told; the winner holds it till all have tried."""
    start, tried, answers = FORK.Barrier(num), FORK.Barrier(num), FORK.Queue()

    def run() -> None:
        start.wait(WAIT_S)
        try:
            with only_writer(folder):
                answers.put("won")
                tried.wait(WAIT_S)
        except StoreError as error:
            answers.put(str(error))
            tried.wait(WAIT_S)

    processes = [FORK.Process(target=run) for _ in range(num)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=WAIT_S) for _ in processes]
    for process in processes:
        process.join(WAIT_S)
    return found


def test_of_sixteen_that_start_at_once_one_wins_and_the_others_are_told_who(folder: Folder):
    found = race(folder, 16)
    assert found.count("won") == 1
    assert all("is being written by process" in answer for answer in found if answer != "won")
    with only_writer(folder):
        pass


def test_of_sixteen_that_find_a_dead_owner_one_takes_over(folder: Folder):
    holder = held_elsewhere(folder)
    holder.kill()
    holder.wait()
    assert race(folder, 16).count("won") == 1


def test_a_second_start_is_refused_at_once_and_told_by_whom_and_since_when(folder: Folder):
    holder = held_elsewhere(folder)
    try:
        with pytest.raises(StoreError) as caught, only_writer(folder):
            pass
        who = re.escape(f"{folder} is being written by process {holder.pid} on {os.uname().nodename}")
        assert re.match(rf"{who} since \d+ s\. Wait for it, or stop it", str(caught.value))
    finally:
        holder.kill()
        holder.wait()


def test_the_lock_of_a_killed_owner_is_taken_over_at_once_even_while_it_is_a_zombie(folder: Folder):
    holder = held_elsewhere(folder)
    os.kill(holder.pid, signal.SIGKILL)
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    with only_writer(folder):
        assert json.loads(folder.read(LOCK))["pid"] == os.getpid()
    holder.wait()


def test_who_has_finished_leaves_the_lock_to_the_next(folder: Folder):
    for _ in range(3):
        with only_writer(folder) as lost:
            assert not lost.is_set()
            with pytest.raises(StoreError, match=f"process {os.getpid()}"), only_writer(folder):
                pass
    with pytest.raises(ZeroDivisionError), only_writer(folder):
        raise ZeroDivisionError
    with only_writer(folder):
        pass


def test_a_process_with_the_id_of_a_dead_owner_is_not_taken_for_it(bucket_folder):
    me = Owner.this_process()
    owner = Owner(me.host, os.getppid(), me.place, began="7", since=me.since)
    bucket_folder.write(LOCK, owner.json(token="x", renewed=me.since, released=False))
    with only_writer(bucket_folder):
        pass
    assert not me.is_gone()


def test_an_owner_on_another_machine_is_believed_until_its_lock_expires(bucket_folder, monkeypatch):
    written_far_away(bucket_folder)
    told = r"by process 4711 on far since 12 min\..*If it is gone, the lock ends in \d+ s"
    with pytest.raises(StoreError, match=told), only_writer(bucket_folder):
        pass
    monkeypatch.setattr(lock, "EXPIRES_S", 0.5)
    take_when_free(bucket_folder)


def test_what_is_no_lock_of_ours_expires_too(bucket_folder, monkeypatch):
    bucket_folder.write(LOCK, b"4711")
    with pytest.raises(StoreError, match="by another process"), only_writer(bucket_folder):
        pass
    monkeypatch.setattr(lock, "EXPIRES_S", 0.5)
    take_when_free(bucket_folder)


def test_an_owner_that_lives_on_this_machine_keeps_its_lock_even_if_it_is_stopped(bucket_folder, monkeypatch):
    holder = held_elsewhere(bucket_folder)
    try:
        holder.send_signal(signal.SIGSTOP)
        monkeypatch.setattr(lock, "EXPIRES_S", 0.5)
        time.sleep(2.1)
        with pytest.raises(StoreError, match=f"process {holder.pid}"), only_writer(bucket_folder):
            pass
    finally:
        holder.kill()
        holder.wait()


def test_a_released_lock_of_another_machine_is_free_at_once(bucket_folder):
    written_far_away(bucket_folder, released=True)
    with only_writer(bucket_folder):
        pass


def test_a_lock_is_renewed_and_so_never_expires_while_it_is_held(bucket_folder, monkeypatch):
    monkeypatch.setattr(lock, "RENEW_S", 0.3)
    with only_writer(bucket_folder) as lost:
        first = json.loads(bucket_folder.read(LOCK))
        wait_until_renewed(bucket_folder)
        assert json.loads(bucket_folder.read(LOCK))["since"] == first["since"]
        assert not lost.is_set()


def test_who_loses_the_lock_learns_of_it_and_leaves_it_to_the_taker(bucket_folder, monkeypatch):
    monkeypatch.setattr(lock, "RENEW_S", 0.3)
    told = r"taken over by process 4711 on far.*vigc verify"
    with pytest.raises(StoreError, match=told), only_writer(bucket_folder) as lost:  # noqa: PT012
        theirs = written_far_away(bucket_folder)
        assert lost.wait(WAIT_S)
    assert bucket_folder.read(LOCK) == theirs


def test_a_lost_lock_is_noticed_at_the_end_at_the_latest(bucket_folder):
    with pytest.raises(StoreError, match="taken over by process 4711 on far"), only_writer(bucket_folder):
        theirs = written_far_away(bucket_folder)
    assert bucket_folder.read(LOCK) == theirs
    bucket_folder.delete(LOCK)
    with pytest.raises(ZeroDivisionError) as caught, only_writer(bucket_folder):  # noqa: PT012
        written_far_away(bucket_folder)
        raise ZeroDivisionError
    assert "taken over" in caught.value.__notes__[0]


def test_emptying_the_folder_does_not_lose_the_lock(bucket_folder, monkeypatch):
    monkeypatch.setattr(lock, "RENEW_S", 0.3)
    with only_writer(bucket_folder) as lost:
        bucket_folder.delete_all()
        wait_until(lambda: LOCK in bucket_folder.names())
        assert json.loads(bucket_folder.read(LOCK))["pid"] == os.getpid()
        assert not lost.is_set()


def test_a_lock_that_is_missing_after_a_long_silence_is_lost(bucket_folder, monkeypatch):
    monkeypatch.setattr(lock, "EXPIRES_S", 0.2)
    monkeypatch.setattr(lock, "RENEW_S", 0.5)
    with pytest.raises(StoreError, match="taken over"), only_writer(bucket_folder) as lost:  # noqa: PT012
        bucket_folder.delete(LOCK)
        assert lost.wait(WAIT_S)


def test_lost_answers_lose_no_lock(s3: S3Server, s3_place, monkeypatch):
    proxy = FaultyProxy(s3.port)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    monkeypatch.setattr(lock, "RENEW_S", 0.5)
    folder = open_folder(s3_place)
    try:
        proxy.fail(lost_answer, 2, "PUT")
        with only_writer(folder) as lost:
            assert json.loads(folder.read(LOCK))["pid"] == os.getpid()
            proxy.fail(lost_answer, 1, "PUT")
            wait_until(lambda: any(failed for _, _, failed in proxy.requests))
            wait_until_renewed(folder)
            assert not lost.is_set()
            proxy.fail(lost_answer, 1, "PUT")
        assert json.loads(folder.read(LOCK))["released"] is True
    finally:
        proxy.close()


@pytest.mark.slow
def test_a_lock_outlives_a_restart_of_the_storage(s3: S3Server, bucket_folder, monkeypatch):
    monkeypatch.setattr(lock, "RENEW_S", 0.5)
    with only_writer(bucket_folder) as lost:
        s3.kill()
        time.sleep(3)
        s3.start()
        wait_until_renewed(bucket_folder)
        assert not lost.is_set()


def test_a_lock_file_that_was_removed_while_it_was_opened_is_not_mistaken_for_the_lock(tmp_path, monkeypatch):
    path, flock = tmp_path / LOCK, fcntl.flock

    def remove_first(descriptor: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        path.unlink()
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with only_local_writer(tmp_path), pytest.raises(StoreError, match="is being written"), only_local_writer(tmp_path):
        pass


def test_a_disk_without_locks_is_written_with_a_warning(tmp_path, monkeypatch, caplog):
    def none(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with caplog.at_level(logging.WARNING), only_writer(open_folder(tmp_path)):
        Path(tmp_path / "x").write_text("x")
    assert "do not run two jobs on it" in caplog.text
