"""A folder in Google Cloud Storage, by pyarrow alone: credentials are the application's default ones, or none where
STORAGE_EMULATOR_HOST names a server that takes Google's place.

Patience is the client library's own. pyarrow has no conditional writes, so `create` and `replace` write, wait, and look
whether somebody else wrote too: two that start in the same second are told apart, two whose writes take longer than
SETTLE_S are not.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TypeVar

from pyarrow.fs import FileSelector, FileSystem, FileType, GcsFileSystem, SubTreeFileSystem

from vigc.platform.records import StoreError
from vigc.platform.storage.folder import Entry, ObjectFolder, Version
from vigc.platform.storage.retry import patience_s

T = TypeVar("T")

CHUNK_BYTES = 16 * 2**20
NUM_THREADS = 16
SETTLE_S = 2.0


class GcsFolder(ObjectFolder):
    """Its `uri` is `gs://bucket` or `gs://bucket/prefix`."""

    @property
    def arrow(self) -> FileSystem:
        server = os.environ.get("STORAGE_EMULATOR_HOST", "")
        return SubTreeFileSystem(self.uri.removeprefix("gs://"), _gcs(os.getpid(), server))

    def retry(self, attempt: Callable[[], T]) -> T:
        try:
            return attempt()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(
                f"{self.uri}: Google Cloud Storage refused ({error}). "
                "Check the bucket's name and GOOGLE_APPLICATION_CREDENTIALS."
            ) from error

    def exists(self) -> bool:
        return bool(self.files())

    def names(self, folder: str = "") -> list[str]:
        # From all that is below it: what has no file of its own at this depth, pyarrow does not list.
        below = f"{folder}/" if folder else ""
        return sorted({entry.name.removeprefix(below).partition("/")[0] for entry in self.files(folder)})

    def files(self, folder: str = "") -> list[Entry]:
        selector = FileSelector(folder, recursive=True, allow_not_found=True)
        found = self.retry(lambda: self.arrow.get_file_info(selector))
        return sorted((Entry(i.path, i.size) for i in found if i.type == FileType.File), key=lambda entry: entry.name)

    def read(self, name: str) -> bytes:
        def attempt() -> bytes:
            with self.arrow.open_input_stream(name) as stream:
                data: bytes = stream.read()
                return data

        return self.retry(attempt)

    def write(self, name: str, data: bytes) -> None:
        def attempt() -> None:
            with self.arrow.open_output_stream(name) as stream:
                stream.write(data)

        self._written(attempt)

    def upload(self, name: str, path: Path) -> None:
        def attempt() -> None:
            file.seek(0)
            with self.arrow.open_output_stream(name) as stream:
                while chunk := file.read(CHUNK_BYTES):
                    stream.write(chunk)

        with open(path, "rb") as file:
            self._written(attempt)

    def delete(self, *names: str) -> None:
        def delete(name: str) -> None:
            with suppress(FileNotFoundError):
                self.retry(lambda: self.arrow.delete_file(name))

        with ThreadPoolExecutor(NUM_THREADS) as pool:  # one request each
            list(pool.map(delete, names))

    def delete_all(self, folder: str = "") -> None:
        self.delete(*(entry.name for entry in self.files(folder)))

    def create(self, name: str, data: bytes) -> str | None:
        try:
            self.version(name)
        except FileNotFoundError:
            return self._settled(name, data)
        return None

    def replace(self, name: str, data: bytes, tag: str) -> str | None:
        try:
            there = self.version(name)
        except FileNotFoundError:
            return None
        return self._settled(name, data) if there.tag == tag else None

    def version(self, name: str) -> Version:
        data = self.read(name)
        written = self.retry(lambda: self.arrow.get_file_info(name)).mtime_ns
        age_s = time.time() - written / 1e9 if written else 0.0
        return Version(data, _tag(data), max(0.0, age_s))

    def _settled(self, name: str, data: bytes) -> str | None:
        self.write(name, data)
        time.sleep(SETTLE_S)
        return _tag(data) if self.read(name) == data else None

    def _written(self, attempt: Callable[[], None]) -> None:
        try:
            self.retry(attempt)
        except FileNotFoundError as error:
            raise StoreError(f"{self.uri}: there is no such bucket. Check its name, or create it.") from error


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@cache
def _gcs(pid: int, server: str) -> GcsFileSystem:
    patience = timedelta(seconds=patience_s())
    if not server:
        return GcsFileSystem(retry_time_limit=patience)
    scheme, _, host = server.rpartition("://")
    return GcsFileSystem(anonymous=True, endpoint_override=host, scheme=scheme or "http", retry_time_limit=patience)
