"""Why an address gives no image, and the limits that every way of fetching keeps."""

from __future__ import annotations

import re
from collections.abc import Callable

from vigc.platform.records import RowError

MAX_BYTES = 512 * 2**20
NUM_THREADS = 16  # requests under way at once

Reserve = Callable[[int], None]  # told how many bytes a fetch will hold in all, before it does; may wait

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class Refused(Exception):
    """Why there are no bytes, or no image. `kind` is a key of decode.ERROR_KINDS."""

    def __init__(self, kind: str, message: str) -> None:
        # A name that is not UTF-8 must not cost the row that tells of it.
        message = message.encode("utf-8", "backslashreplace").decode()
        super().__init__(kind, message)
        self.error = RowError(kind, message)

    def __str__(self) -> str:
        return f"{self.error.kind}: {self.error.message}"


def scheme_of(uri: str) -> str:
    found = _SCHEME.match(uri)
    return found[1].lower() if found else ""


def check_size(num_bytes: int) -> None:
    if num_bytes > MAX_BYTES:
        raise Refused("too_large", f"{num_bytes} bytes; at most {MAX_BYTES} are read")


def check_part(address: str, offset: int, wanted: int, size: int) -> None:
    if offset + wanted > size:
        raise Refused("truncated", f"{address} has {size} bytes, and the image would end at byte {offset + wanted}")
