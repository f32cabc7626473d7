"""What sources share about places: a place is a path of this machine or an address such as s3://bucket/folder/file.

Reading one goes through `platform/storage`; what goes wrong becomes an InputError that names the place.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import pyarrow as pa
import pyarrow.compute as pc

from vigc.platform.records import InputError
from vigc.platform.storage import LocalFolder, open_folder

BUFFER_BYTES = 2**20

# An absolute path, or a scheme of its own.
COMPLETE = r"^(/|[A-Za-z][A-Za-z0-9+.-]*://)"


def is_address(place: str) -> bool:
    return "://" in place


def absolute(place: str) -> str:
    return place.rstrip("/") if is_address(place) else str(Path(place).absolute())


def split(place: str) -> tuple[str, str]:
    """The folder of a file and its name there."""
    folder, _, name = absolute(place).rpartition("/")
    return folder or "/", name


def suffix(place: str) -> str:
    return os.path.splitext(place)[1].lower()


def without_scheme(address: str) -> str:
    """The image_id of an image known by its address alone. The query stays: it may be all that tells two apart."""
    return re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*://", "", address)


def resolved(uris: pa.Array, folder: str) -> pa.Array:
    """Complete addresses as they are, the others below `folder`."""
    complete = pc.match_substring_regex(uris, COMPLETE)
    return pc.if_else(complete, uris, pc.binary_join_element_wise(folder.rstrip("/"), uris, "/"))


def is_text(name: str) -> bool:
    """Lone surrogates ("\\ud800"), which JSON and file names can hold, have no place in an Arrow string."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def is_folder(place: str) -> bool:
    """Raises InputError where there is nothing at all."""
    if not is_address(place):
        path = Path(place)
        if not path.exists():
            raise InputError(f"{place}: no such file or folder. Check the path; relative paths start at {Path.cwd()}.")
        return path.is_dir()
    folder, name = split(place)
    if "/" in folder.partition("://")[2] and name in open_folder(folder).names() and suffix(name):
        return bool(open_folder(place).names())  # a file has nothing below it
    if not open_folder(place).exists():
        raise InputError(f"{place}: nothing is there. Check the address.")
    return True


@contextmanager
def readable(place: str) -> Iterator[None]:
    """Turns what storage and Arrow say about a file into an InputError that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{place}: no such file. Check the path.") from error
    except pa.ArrowInvalid as error:
        raise InputError(f"{place}: damaged, or not of the kind its name says ({error}). Replace the file.") from error
    except OSError as error:
        raise InputError(f"{place}: cannot be read ({error.strerror or error}). Make it readable.") from error


def open_stream(place: str) -> IO[bytes]:
    """A file to be read from its beginning to its end."""
    folder, name = split(place)
    found = open_folder(folder)
    if isinstance(found, LocalFolder):
        return open(found.path / name, "rb")
    return cast(IO[bytes], io.BufferedReader(found.arrow.open_input_stream(name), BUFFER_BYTES))
