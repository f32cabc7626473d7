"""Images named in a text file, itself a file or an http(s) address: one address or path a line.

Blank lines and lines that begin with # are passed over; paths are relative to the list's folder. The image_id is the
line without its scheme (`https://host/a.jpg?size=2` becomes `host/a.jpg?size=2`), so it is as unique as the lines are;
the query stays, because it may be all that tells two images apart.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from vigc.platform.records import ImageRecord, InputError
from vigc.platform.sources.addresses import absolute, is_address, open_stream, readable, split, without_scheme
from vigc.platform.sources.base import Source, in_tables
from vigc.platform.text_lines import lines_of

SCHEMES = ("http", "https", "s3", "gs", "gcs", "file")


class AddressListSource(Source):
    name = "folder"

    def __init__(self, place: str) -> None:
        """Raises InputError when the list cannot be read or a line is no address."""
        self._place = absolute(place)
        self._lines: list[tuple[int, str]] = []
        for number, line in enumerate(lines_of(_read(self._place)), 1):
            if (address := line.strip()) and not address.startswith("#"):
                self._check(number, address)
                self._lines.append((number, address))

    def describe(self) -> str:
        return f"folder, the addresses in {self._place}"

    def num_images(self) -> int:
        return len(self._lines)

    def place(self, index: int) -> str:
        return f"{self._place}: line {self._lines[index][0]}"

    def tables(self) -> Iterator[pa.Table]:
        folder = split(self._place)[0].rstrip("/")
        return in_tables(
            ImageRecord(
                image_id=without_scheme(line),
                uri=line if is_address(line) or line.startswith("/") else f"{folder}/{line}",
            )
            for _, line in self._lines
        )

    def _check(self, number: int, address: str) -> None:
        scheme, separator, rest = address.partition("://")
        if separator and (scheme.lower() not in SCHEMES or not rest):
            raise InputError(
                f"{self._place}: line {number}: {address!r} is no address that images are read from. "
                f"Write a path, or one of {', '.join(f'{one}://' for one in SCHEMES)}."
            )


def _read(place: str) -> str:
    with readable(place), open_stream(place) as file:
        text = file.read()
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: not a UTF-8 text ({error}). Save the list as UTF-8.") from error
