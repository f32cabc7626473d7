"""An address becomes the bytes of an image, or a `Refused` with its reason: from a path, file://, s3://, gs://, http://
or https://, whole or out of a container.

Two forms at the end of an address name a part of what it points to: `#<offset>+<size>` some bytes of it (an image in a
tar), `#row=<number>&column=<name>` a cell of an Arrow stream or a Parquet file; only these are read from hf://, too. A
path that is there as it stands is a path, whatever its name looks like. Sizes are known before memory is taken, and at
most MAX_BYTES are.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import unquote

from vigc.platform.images.refused import NUM_THREADS, Refused, Reserve, check_part, check_size, scheme_of
from vigc.platform.images.remote import from_gcs, from_s3, from_web, object_file

MAX_BYTES_AHEAD = 128 * 2**20  # fetched and not handed out yet; the next one in turn may be larger

_SPAN = re.compile(r"(.+)#(\d+)\+(\d+)", re.DOTALL)
_CELL = re.compile(r"(.+)#row=(\d+)&column=(.+)", re.DOTALL)


def fetch(uri: str, reserve: Reserve = lambda num_bytes: None) -> bytes:
    """See the module.

    Raises:
        Refused: and nothing else. What may pass is tried again first: at http(s) for up to half a minute, in S3 and
            Google Cloud Storage for as long as VIGC_STORAGE_PATIENCE_S says.
    """
    try:
        data = _fetch(uri, reserve)
    except Refused:
        raise
    except MemoryError as error:
        raise Refused("too_large", f"{uri}: there is not enough memory for its bytes") from error
    except Exception as error:  # a client's own error; here it becomes data
        raise Refused("unreadable", f"{uri}: {type(error).__name__}: {error}") from error
    if not data:
        raise Refused("empty", "the file has 0 bytes")
    return data


def fetch_many(uris: Sequence[str]) -> Iterator[bytes | Refused]:
    """The same for many, in their order: those that lie elsewhere are fetched ahead, while earlier ones are used."""
    budget = _Budget()
    ahead: deque[Future[bytes | Refused] | None] = deque()  # None: a local one, read when its turn comes
    pool = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="vigc-fetch")
    try:
        for position, uri in enumerate(uris):
            budget.head = position
            while len(ahead) < NUM_THREADS and position + len(ahead) < len(uris):
                place = position + len(ahead)
                ahead.append(pool.submit(_fetched, uris[place], budget.at(place)) if _is_apart(uris[place]) else None)
            coming = ahead.popleft()
            yield _fetched(uri) if coming is None else coming.result()
            del coming
            budget.release(position)
    finally:
        budget.stop()
        pool.shutdown(wait=False, cancel_futures=True)


def _fetched(uri: str, reserve: Reserve = lambda num_bytes: None) -> bytes | Refused:
    try:
        return fetch(uri, reserve)
    except Refused as refused:
        return refused


class _Budget:
    """Bytes that fetches may hold before their turn. The one whose turn it is gets what it needs, so none waits for
    ever.
    """

    def __init__(self) -> None:
        self._head, self._held = 0, dict[int, int]()
        self._changed = threading.Condition()

    @property
    def head(self) -> int:
        return self._head

    @head.setter
    def head(self, position: int) -> None:
        with self._changed:
            self._head = position
            self._changed.notify_all()

    def at(self, position: int) -> Reserve:
        def has_room(num_bytes: int) -> bool:
            others = sum(held for place, held in self._held.items() if place != position)
            return position <= self._head or others + num_bytes <= MAX_BYTES_AHEAD

        def reserve(num_bytes: int) -> None:
            with self._changed:
                self._changed.wait_for(lambda: has_room(num_bytes))
                self._held[position] = num_bytes

        return reserve

    def release(self, position: int) -> None:
        with self._changed:
            self._held.pop(position, None)
            self._changed.notify_all()

    def stop(self) -> None:
        """Lets all fetches that still wait go on and end: nobody takes their results."""
        self.head = 2**62


def _is_apart(uri: str) -> bool:
    """Whether it lies elsewhere and does not depend on its neighbours: cells are read in order, batch after batch."""
    return scheme_of(uri) not in ("", "file") and not _CELL.fullmatch(uri)


def _fetch(uri: str, reserve: Reserve) -> bytes:
    scheme = scheme_of(uri)
    if scheme in ("", "file") and (path := _existing(uri)) is not None:
        return _from_disk(path, None, reserve)
    span, cell = _SPAN.fullmatch(uri), _CELL.fullmatch(uri)
    if cell:
        return _from_table(cell[1], int(cell[2]), cell[3], reserve)
    address, part = (span[1], (int(span[2]), int(span[3]))) if span else (uri, None)
    if part is not None:
        check_size(part[1])
    if scheme in ("", "file"):
        return _from_disk(_existing(address) or _path(address), part, reserve)
    if scheme == "s3":
        return from_s3(address, part, reserve)
    if scheme in ("gs", "gcs"):
        return from_gcs(address, part, reserve)
    if scheme in ("http", "https"):
        return from_web(address, part, reserve)
    raise Refused("unreadable", f"{uri}: {scheme}:// is not read; local paths, s3://, gs://, http:// and https:// are")


def _path(uri: str) -> str:
    if scheme_of(uri) != "file":
        return uri
    return re.sub(r"^file://(localhost(?=/))?", "", uri, flags=re.IGNORECASE)


def _existing(uri: str) -> str | None:
    """The path that is there: as it stands, or, in a file:// address, with its %xx resolved."""
    path = _path(uri)
    if os.path.lexists(path) or path == uri:
        return path if os.path.lexists(path) else None
    decoded = unquote(path, errors="surrogateescape")
    return decoded if os.path.lexists(decoded) else None


def _from_disk(path: str, part: tuple[int, int] | None, reserve: Reserve) -> bytes:
    with _explained(path), open(_descriptor(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        offset, wanted = part or (0, size)
        check_size(wanted)
        check_part(path, offset, wanted, size)
        reserve(wanted)
        file.seek(offset)
        return file.read(wanted)


def _descriptor(path: str) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # or a named pipe would wait for a writer
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    raise Refused("not_an_image", f"{path} is {'a folder' if stat.S_ISDIR(mode) else 'a device or a pipe, not a file'}")


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Turns the file system's errors into reasons."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Refused("missing", f"no file at {path}") from error
    except PermissionError as error:
        raise Refused("permission", f"{path} may not be read by this user") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        code = errno.errorcode.get(getattr(error, "errno", None) or 0, type(error).__name__)
        raise Refused("unreadable", f"{path}: {code} {error}") from error


def _from_table(address: str, row: int, column: str, reserve: Reserve) -> bytes:
    import pyarrow as pa

    from vigc.platform.images.table_images import read_cell

    scheme = scheme_of(address)
    try:
        if scheme in ("", "file"):
            path = _existing(address) or _path(address)
            with _explained(path):
                os.close(_descriptor(path))
                status = os.stat(path)
                version = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
                cell = read_cell(address, version, lambda: pa.memory_map(path), row, column)
        elif scheme in ("s3", "gs", "gcs", "hf"):
            cell = read_cell(address, (), lambda: object_file(address), row, column)
        else:
            raise Refused("unsupported", f"{address}: rows are read from local files, s3://, gs:// and hf:// only")
    except FileNotFoundError as error:
        raise Refused("missing", f"no file at {address}") from error
    except LookupError as error:
        raise Refused("missing", f"{address}: {error.args[0]}") from error
    except TypeError as error:
        raise Refused("unsupported", f"{address}: {error}") from error
    except pa.ArrowInvalid as error:
        raise Refused("unreadable", f"{address} is no whole Arrow stream or Parquet file: {error}") from error
    check_size(cell.size)
    reserve(cell.size)
    data: bytes = cell.to_pybytes()
    return data
