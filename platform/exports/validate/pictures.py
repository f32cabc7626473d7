"""Whether the images of training data are there, open, and are none that models are evaluated on.

Pictures are decoded as `vigc generate` decodes them, in a child process, so what opens here opens there. An evaluation
image is found by its name, or by its perceptual hash, which survives scaling and recompression.
"""

from __future__ import annotations

import base64
import binascii
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vigc.platform.exports.validate.reading import Picture
from vigc.platform.images import decode_batch
from vigc.platform.records import ConfigError
from vigc.platform.schema import MANIFEST
from vigc.platform.sources.addresses import absolute, is_folder
from vigc.platform.sources.folder import FolderSource
from vigc.platform.sources.selection import IdList, read_ids

AT_ONCE = 64
SMALL = 32  # pixels; `perceptual_hash` needs no more
MAX_DISTANCE = 4  # bits of 64 in which two pictures of the same scene may differ

_PHASH = r"^[0-9a-f]{16}$"


@dataclass(frozen=True, slots=True)
class Opened:
    uri: str
    error: str | None
    phash: str | None


def address_of(picture: Picture, folder: str | None) -> str | None:
    """Where a picture lies; None where the file holds it, or does not say enough."""
    if picture.is_inline or picture.name is None:
        return None
    if "://" in picture.name or picture.name.startswith("/"):
        return picture.name
    return None if folder is None else f"{folder.rstrip('/')}/{picture.name}"


def open_all(pictures: Iterable[tuple[int, Picture]], folder: str | None) -> Iterator[tuple[int, Opened]]:
    """What came of each, with the row that it is of; those that no address is known of are left aside."""
    stream = iter(pictures)
    while some := list(islice(stream, AT_ONCE)):
        with tempfile.TemporaryDirectory(prefix="vigc-") as scratch:
            found = [(row, _place(picture, folder, Path(scratch, str(n)))) for n, (row, picture) in enumerate(some)]
            known = [(row, uri) for row, uri in found if uri is not None]
            yield from zip((row for row, _ in known), _opened([uri for _, uri in known]), strict=True)


def _place(picture: Picture, folder: str | None, scratch: Path) -> str | None:
    if not picture.is_inline:
        return address_of(picture, folder)
    data = picture.data
    if data is None:
        try:
            data = base64.b64decode(str(picture.name).partition(",")[2], validate=True)
        except binascii.Error:
            data = b""
    scratch.write_bytes(data)
    return str(scratch)


def _opened(uris: list[str]) -> Iterator[Opened]:
    records = [{"image_id": uri, "uri": uri} for uri in uris]
    table = decode_batch(pa.Table.from_pylist(records, schema=MANIFEST), SMALL)
    for uri, kind, message, phash in zip(
        *(table[name].to_pylist() for name in ("uri", "error_kind", "error_message", "phash")), strict=True
    ):
        yield Opened(uri, None if kind is None else f"{kind}: {message}", phash)


class EvaluationImages:
    """Images that must not be trained on: a folder of pictures, or a list of ids, perceptual hashes, or both."""

    def __init__(self, place: str) -> None:
        """Raises InputError where it cannot be read, ConfigError where a folder holds no picture that opens."""
        place = absolute(place)
        if is_folder(place):
            source = FolderSource(place)
            uris = [uri for table in source.tables() for uri in table["uri"].to_pylist()]
            hashes = [one.phash for n in range(0, len(uris), AT_ONCE) for one in _opened(uris[n : n + AT_ONCE])]
            entries = [one for one in hashes if one is not None]
            self._ids: IdList | None = None
            if not entries:
                raise ConfigError(f"{place}: no picture in it opens, so nothing can be compared with it.")
        else:
            listed = read_ids(place)
            entries = [one for one in listed.to_pylist() if re.match(_PHASH, one)]
            ids = [one for one in listed.to_pylist() if not re.match(_PHASH, one)]
            self._ids = IdList(pa.array(ids, pa.string())) if ids else None
        self._hashes = np.array([int(one, 16) for one in entries], np.uint64)

    @property
    def has_hashes(self) -> bool:
        return len(self._hashes) > 0

    def named(self, names: list[str]) -> NDArray[np.bool_]:
        """Which of these paths are on the list."""
        if self._ids is None or not names:
            return np.zeros(len(names), bool)
        return self._ids.among(pa.array(names, pa.string()))

    def like(self, phash: str | None) -> bool:
        """Whether an evaluation image looks like this."""
        if phash is None or not self.has_hashes:
            return False
        distances = np.bitwise_count(self._hashes ^ np.uint64(int(phash, 16)))
        return bool((distances <= MAX_DISTANCE).any())
