"""A folder in Google Cloud Storage, by pyarrow alone: credentials are the application's default ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from pyarrow.fs import FileSelector, FileSystem, FileType, GcsFileSystem, SubTreeFileSystem

from vigc.platform.records import StoreError
from vigc.platform.storage.folder import Entry, Folder
from vigc.platform.storage.patience import patience_s

CHUNK_BYTES = 16 * 2**20


class GcsFolder(Folder):
    """Its `uri` is `gs://bucket` or `gs://bucket/prefix`."""

    @property
    def arrow(self) -> FileSystem:
        return SubTreeFileSystem(self.uri.removeprefix("gs://"), _gcs(os.getpid()))

    def exists(self) -> bool:
        return bool(self._found("", recursive=False))

    def names(self, folder: str = "") -> list[str]:
        return sorted(info.base_name for info in self._found(folder, recursive=False))

    def files(self, folder: str = "") -> list[Entry]:
        found = self._found(folder, recursive=True)
        return sorted((Entry(i.path, i.size) for i in found if i.type == FileType.File), key=lambda entry: entry.name)

    def read(self, name: str) -> bytes:
        with self._explained(name), self.arrow.open_input_stream(name) as stream:
            data: bytes = stream.read()
            return data

    def write(self, name: str, data: bytes) -> None:
        with self._explained(name), self.arrow.open_output_stream(name) as stream:
            stream.write(data)

    def upload(self, name: str, path: Path) -> None:
        with open(path, "rb") as file, self._explained(name), self.arrow.open_output_stream(name) as stream:
            while chunk := file.read(CHUNK_BYTES):
                stream.write(chunk)

    def delete(self, *names: str) -> None:
        for name in names:
            try:
                with self._explained(name):
                    self.arrow.delete_file(name)
            except FileNotFoundError:
                continue

    def delete_all(self, folder: str = "") -> None:
        self.delete(*(entry.name for entry in self.files(folder)))

    def _found(self, folder: str, *, recursive: bool) -> list[Any]:
        with self._explained(folder):
            found: list[Any] = self.arrow.get_file_info(FileSelector(folder, recursive=recursive, allow_not_found=True))
            return found

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(f"{self.uri}/{name}: Google Cloud Storage refused ({error}).") from error


@cache
def _gcs(pid: int) -> GcsFileSystem:
    return GcsFileSystem(retry_time_limit=timedelta(seconds=patience_s()))
