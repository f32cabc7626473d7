"""A folder on this machine's disk, or on a file system that is mounted here."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar

from pyarrow.fs import FileSystem, LocalFileSystem, SubTreeFileSystem

from vigc.platform.storage.files import explained, replaced_whole, replaced_whole_folder, store_error, written_whole
from vigc.platform.storage.folder import Entry, Folder, NewFolder

T = TypeVar("T")

COPIED_AT_ONCE = 2**20


class LocalFolder(Folder):
    """Its `uri` is an absolute path."""

    @property
    def path(self) -> Path:
        return Path(self.uri)

    @property
    def arrow(self) -> FileSystem:
        return SubTreeFileSystem(self.uri, LocalFileSystem())

    def retry(self, attempt: Callable[[], T]) -> T:
        try:
            return attempt()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise store_error(self.uri, error) from error

    def exists(self) -> bool:
        with explained(self.uri):
            return self.path.exists()

    def names(self, folder: str = "") -> list[str]:
        with explained(self.path / folder):
            try:
                return sorted(name for name in os.listdir(self.path / folder) if not _is_unfinished(name))
            except FileNotFoundError:
                return []

    def files(self, folder: str = "") -> list[Entry]:
        with explained(self.path / folder):
            return sorted(_below(self.path / folder, f"{folder}/" if folder else ""), key=lambda entry: entry.name)

    def read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise store_error(self.path / name, error) from error

    def write(self, name: str, data: bytes) -> None:
        with replaced_whole(self.path / name) as temporary, open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def upload(self, name: str, path: Path) -> None:
        with (
            open(path, "rb") as source,
            replaced_whole(self.path / name) as temporary,
            open(temporary, "wb") as file,
        ):
            shutil.copyfileobj(source, file, COPIED_AT_ONCE)
            file.flush()
            os.fsync(file.fileno())

    def delete(self, *names: str) -> None:
        for name in names:
            with explained(self.path / name):
                (self.path / name).unlink(missing_ok=True)

    def delete_all(self, folder: str = "") -> None:
        path = self.path / folder
        with explained(path):
            if path.is_dir():
                shutil.rmtree(path)

    def delete_unfinished(self, folder: str = "") -> None:
        with explained(self.path / folder):
            for path in (self.path / folder).rglob(".*.tmp"):
                path.unlink(missing_ok=True)

    @contextmanager
    def new_file(self, name: str) -> Iterator[Path]:
        with replaced_whole(self.path / name) as temporary:
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())

    @contextmanager
    def new_folder(self, name: str, marker: str) -> Iterator[NewFolder]:
        there, path = self._replaceable(name, marker), self.path / name
        with replaced_whole_folder(path, replace=bool(there)) as temporary:
            yield NewFolder(temporary)

    @contextmanager
    def new_text(self, name: str) -> Iterator[IO[str]]:
        with written_whole(self.path / name) as file:
            yield file


def _below(folder: Path, prefix: str) -> Iterator[Entry]:
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:  # never there, or gone since its parent was listed
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _below(folder / entry.name, f"{prefix}{entry.name}/")
        elif not _is_unfinished(entry.name):
            try:
                status = entry.stat()
            except FileNotFoundError:  # gone since it was listed
                continue
            if stat.S_ISREG(status.st_mode):
                yield Entry(prefix + entry.name, status.st_size)


def _is_unfinished(name: str) -> bool:
    """A file that is being written, or that a killed process left half written."""
    return name.startswith(".") and name.endswith(".tmp")
