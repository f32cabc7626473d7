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
import urllib3
from pyarrow.fs import FileType

from vigc.platform.records import InputError
from vigc.platform.storage import LocalFolder, open_folder

BUFFER_BYTES = 2**20
TIMEOUT_S = 30.0
NUM_TRIES = 4

# An absolute path, or a scheme of its own.
COMPLETE = r"^(/|[A-Za-z][A-Za-z0-9+.-]*://)"


def is_address(place: str) -> bool:
    return "://" in place


def is_web(place: str) -> bool:
    return place.startswith(("http://", "https://"))


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
    if is_web(place):
        return False
    folder, name = split(place)
    if folder.partition("://")[2]:
        with readable(place):
            kind = open_folder(folder).arrow.get_file_info(name).type
        if kind == FileType.File:
            return False
    if not open_folder(place).exists():
        raise InputError(f"{place}: nothing is there. Check the address.")
    return True


@contextmanager
def readable(place: str) -> Iterator[None]:
    """Turns what storage, the web and Arrow say about a file into an InputError that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{place}: no such file. Check the path.") from error
    except pa.ArrowInvalid as error:
        raise InputError(f"{place}: damaged, or not of the kind its name says ({error}). Replace the file.") from error
    except urllib3.exceptions.HTTPError as error:
        raise InputError(f"{place}: no answer ({error}). Check the address and the network.") from error
    except OSError as error:
        raise InputError(f"{place}: cannot be read ({error.strerror or error}). Make it readable.") from error


def open_stream(place: str) -> IO[bytes]:
    """A file to be read from its beginning to its end, under `readable`."""
    if is_web(place):
        return _open_web(place)
    folder, name = split(place)
    found = open_folder(folder)
    if isinstance(found, LocalFolder):
        return open(found.path / name, "rb")
    return cast(IO[bytes], io.BufferedReader(found.arrow.open_input_stream(name), BUFFER_BYTES))


def _open_web(address: str) -> IO[bytes]:
    retries = urllib3.Retry(NUM_TRIES, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504))
    answer = urllib3.request("GET", address, retries=retries, timeout=TIMEOUT_S, preload_content=False)
    if answer.status != 200:
        answer.close()
        raise InputError(f"{address}: the server answers {answer.status}. Check the address.")
    stream = cast(urllib3.HTTPResponse, answer)
    stream.auto_close = False  # else it is a closed file where its end is looked for
    return cast(IO[bytes], io.BufferedReader(cast(io.RawIOBase, stream), BUFFER_BYTES))
