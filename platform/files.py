"""Files of this machine: whole or not at all, one writer at a time, errors that say what to do."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from vigc.platform.records import StoreError

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
        finally:
            temporary.unlink(missing_ok=True)


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
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            raise StoreError(
                f"{folder} is being written by process {holder}. Wait for it, or stop it, or choose another folder."
            ) from error
        except OSError as error:  # some network file systems have no locks
            logging.getLogger(__name__).warning("%s cannot be locked (%s): do not run two jobs on it.", folder, error)
        with explained(folder):
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)
