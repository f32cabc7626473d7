"""What every kind of folder can do. Names are relative paths with "/" between their parts; contents are bytes.

A file appears whole or not at all, and whoever reads it sees one whole version. That, an atomic "create unless it is
there", and a listing are all that the exactly-once data set is built on.
"""

from __future__ import annotations

import io
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


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
        """This folder as a pyarrow file system of its own, for Parquet."""

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
        """Whole or not at all; whatever was there is replaced."""

    @abstractmethod
    def upload(self, name: str, path: Path) -> None:
        """Like `write`, from a file of this machine, which may be large."""

    @abstractmethod
    def delete(self, *names: str) -> None:
        """Files that are not there are no error."""

    @abstractmethod
    def delete_all(self, folder: str = "") -> None:
        """The folder with all that is in it."""

    @contextmanager
    def new_text(self, name: str) -> Iterator[IO[str]]:
        """A UTF-8 text file that appears, complete, when the block ends without an exception, and else not at all."""
        with tempfile.TemporaryDirectory(prefix="vigc-") as scratch:
            path = Path(scratch) / "text"
            with open(path, "w", encoding="utf-8") as file:
                yield file
            self.upload(name, path)

    def read_text(self, name: str) -> str:
        return io.TextIOWrapper(io.BytesIO(self.read(name)), encoding="utf-8").read()
