"""Files of this machine: whole or not at all, one writer at a time, errors that say what to do."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from vigc.platform.records import StoreError
from vigc.platform.storage.owner import Owner

_REMEDIES = {
    errno.ENOSPC: "the disk is full. Free some space and run the same command again; committed rows are kept",
    errno.EDQUOT: "the disk quota is used up. Free some space and run the same command again",
    errno.EFBIG: "a file grew past the size limit (ulimit -f). Raise it and run the same command again",
    errno.EACCES: "no permission. Choose another folder, or change its permissions",
    errno.EPERM: "no permission. Choose another folder, or change its permissions",
    errno.EROFS: "the file system is read-only. Choose another folder",
    errno.ENOTDIR: "a file stands where a folder is needed. Choose another folder",
    errno.EEXIST: "a file stands where a folder is needed. Choose another folder",
    errno.ENOENT: "no such file or folder. Check the path",
    errno.EISDIR: "a folder stands where a file is needed. Choose another name",
}


def store_error(path: Path | str, error: OSError) -> StoreError:
    code = error.errno or 0
    return StoreError(f"{path}: {_REMEDIES.get(code, f'the file system refused ({error})')}.")


@contextmanager
def explained(path: Path | str) -> Iterator[None]:
    """Turns the file system's errors into a StoreError that names `path` and the way out."""
    try:
        yield
    except OSError as error:
        raise store_error(path, error) from error


@contextmanager
def replaced_whole(path: Path) -> Iterator[Path]:
    """A name to write to; the file takes the place of `path` when the block ends well, and else is gone."""
    # A file name has room for 255 bytes, and `path`'s may have used them.
    temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            os.replace(temporary, path)
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def replaced_whole_folder(path: Path, *, replace: bool) -> Iterator[Path]:
    """The same for a folder. Between the old one's leaving and the new one's coming there is none, for a moment.

    Args:
        replace: there may be one; else a folder at `path` has to be empty.
    """
    stem = f".{path.name[:40]}.{os.getpid()}-{secrets.token_hex(4)}"
    temporary, old = path.with_name(f"{stem}.tmp"), path.with_name(f"{stem}.old.tmp")
    with explained(path):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _sync_file(file)
            if replace:
                os.replace(path, old)
            os.replace(temporary, path)
            _sync_folder(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """The new name is on the disk, too; without it, a power cut may bring the old one back."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def written_whole(path: Path) -> Iterator[IO[str]]:
    """A text file that appears, complete, when the block ends without an exception, and else not at all."""
    with replaced_whole(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Holds `folder`'s lock; a process that dies, however it dies, no longer holds it.

    Raises:
        StoreError: someone else holds the lock, or the folder cannot be made or written.
    """
    descriptor = _locked(folder)
    try:
        owner = Owner.this_process().json()
        with explained(folder):
            os.pwrite(descriptor, owner, 0)
            os.truncate(descriptor, len(owner))
        yield
    finally:
        os.close(descriptor)


def _locked(folder: Path) -> int:
    path = folder / ".lock"
    while True:
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same(path, descriptor):
                return descriptor
        except BlockingIOError as error:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise StoreError(
                f"{folder} is being written by {holder}. Wait for it, or stop it, or choose another folder."
            ) from error
        except OSError as error:  # some network file systems have no locks
            logging.getLogger(__name__).warning("%s cannot be locked (%s): do not run two jobs on it.", folder, error)
            return descriptor
        os.close(descriptor)  # removed since it was opened: a lock on it would keep nobody out


def _is_same(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> str:
    until = time.monotonic() + 1
    while True:
        owner = Owner.parsed(os.pread(descriptor, 4096, 0))
        if owner and not owner.is_gone():
            return owner.described(time.time() - owner.since)
        if time.monotonic() > until:
            return "another process"
        time.sleep(0.02)  # it has the lock, and is about to write its name over that of the last owner
