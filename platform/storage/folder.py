"""What every kind of folder can do. Names are relative paths with "/" between their parts; contents are bytes.

A file appears whole or not at all, and whoever reads it sees one whole version. That, a listing, and a lock (lock.py)
are all that the exactly-once data set is built on. Two things differ: an empty folder exists on a disk, and for a
while at most in S3; and on a disk names like ".x.tmp" are left out of every listing, for they are files that are
being written.
"""

from __future__ import annotations

import io
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem
    from pyarrow.parquet import ParquetFile

from vigc.platform.records import StoreError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file found below a folder."""

    name: str  # relative to the folder that was asked
    num_bytes: int


@dataclass(frozen=True)
class Folder(ABC):
    """See the module. Every method raises StoreError where storage refuses, with the address and the way out."""

    uri: str  # an absolute path, or an address like s3://bucket/prefix; without a slash at its end

    def __str__(self) -> str:
        return self.uri

    def __truediv__(self, name: str) -> Folder:
        return type(self)(f"{self.uri}/{name}")

    @property
    @abstractmethod
    def arrow(self) -> FileSystem:
        """This folder as a pyarrow file system of its own, for Parquet; to be used inside `retry`.

        On a disk, a file that is written through it can be seen half written, and folders have to be created.
        """

    @abstractmethod
    def retry(self, attempt: Callable[[], T]) -> T:
        """What `attempt` returns, which uses `arrow` and can be repeated: it is, after what may pass.

        Raises FileNotFoundError for a file that is not there, and StoreError for what else the storage refuses.
        """

    def open_parquet(self, name: str) -> ParquetFile:
        """A Parquet file, to be read piece by piece. Raises FileNotFoundError where there is no such file.

        pyarrow bridges half a minute's silence of the storage by itself. To be as patient as everything else is, read
        `folder.retry(lambda: file.read_row_group(n))`.
        """
        from pyarrow.parquet import ParquetFile

        return self.retry(lambda: ParquetFile(name, filesystem=self.arrow))

    @abstractmethod
    def exists(self) -> bool:
        """Whether anything is there."""

    @abstractmethod
    def names(self, folder: str = "") -> list[str]:
        """What lies directly in it, files and folders, sorted; empty where there is no such folder."""

    @abstractmethod
    def files(self, folder: str = "") -> list[Entry]:
        """All files below it, sorted by name; their names are relative to `self`, not to `folder`."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError where there is no such file."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Writes a file whole or not at all; whatever was there is replaced."""

    @abstractmethod
    def upload(self, name: str, path: Path) -> None:
        """Like `write`, from a file of this machine, which may be large. Raises FileNotFoundError without it."""

    @abstractmethod
    def delete(self, *names: str) -> None:
        """Removes files. Those that are not there are no error."""

    @abstractmethod
    def delete_all(self, folder: str = "") -> None:
        """Removes the folder with all that is in it."""

    @abstractmethod
    def delete_unfinished(self, folder: str = "") -> None:
        """Removes what killed writers left half written, where that can be seen; nobody else may be writing."""

    @contextmanager
    def new_file(self, name: str) -> Iterator[Path]:
        """A path to write to; what is there when the block ends well is the file `name`, and else there is none."""
        with tempfile.TemporaryDirectory(prefix="vigc-") as scratch:
            path = Path(scratch) / "file"
            yield path
            self.upload(name, path)

    @contextmanager
    def new_text(self, name: str) -> Iterator[IO[str]]:
        """A UTF-8 text file that appears, complete, when the block ends without an exception, and else not at all."""
        with self.new_file(name) as path, open(path, "w", encoding="utf-8") as file:
            yield file
            file.flush()

    @contextmanager
    def new_folder(self, name: str, marker: str) -> Iterator[NewFolder]:
        """A folder that counts when it is whole: `marker` is in it from the end of the block on, and not before.

        One that is there and has the marker is replaced. In an object store its files come one by one, the marker last.

        Raises:
            StoreError: something else is there.
        """
        there = self._replaceable(name, marker)
        with tempfile.TemporaryDirectory(prefix="vigc-") as scratch:
            if there:
                self.delete(f"{name}/{marker}")
                self.delete_all(name)
            yield NewFolder(Path(scratch), lambda file, path: self.upload(f"{name}/{file}", path))

    def _replaceable(self, name: str, marker: str) -> list[str]:
        """What is there, when it may be replaced."""
        there = self.names(name)
        if there and marker not in there:
            raise StoreError(
                f"{self}/{name} holds {there[0]!r}, and nothing says that it may be replaced. Name a new folder."
            )
        return there

    def read_text(self, name: str) -> str:
        return io.TextIOWrapper(io.BytesIO(self.read(name)), encoding="utf-8").read()


@dataclass(frozen=True, slots=True)
class NewFolder:
    """A folder that is being filled, file by file."""

    path: Path
    _publish: Callable[[str, Path], None] | None = None  # None: the files stay where they are written

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """A path to write the file `name` to."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        yield path
        if self._publish is not None:
            self._publish(name, path)
            path.unlink()


@dataclass(frozen=True, slots=True)
class Version:
    """A file as it was at a moment, and the tag that it has until it is written again."""

    data: bytes
    tag: str
    age_s: float  # since it was written, by the storage's own clock where it shows one


class ObjectFolder(Folder):
    """A folder in an object store, where a write can depend on what is there."""

    @abstractmethod
    def create(self, name: str, data: bytes) -> str | None:
        """Writes a file that is not there yet: its tag, or None when there is one."""

    @abstractmethod
    def replace(self, name: str, data: bytes, tag: str) -> str | None:
        """Writes a file that is still as it was: its new tag, or None when it has been written or removed since."""

    def delete_unfinished(self, folder: str = "") -> None:
        """Does nothing: the parts of an upload that was cut off go by the bucket's own rules."""

    @abstractmethod
    def version(self, name: str) -> Version:
        """Raises FileNotFoundError where there is no such file."""
