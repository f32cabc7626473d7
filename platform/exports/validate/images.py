"""Whether the images of training data are there, open, and are none that models are evaluated on.

Images are decoded as `vigc generate` decodes them, in a child process, so what opens here opens there. An evaluation
image is found by its name, or by its perceptual hash, which survives scaling and recompression.
"""

from __future__ import annotations

import base64
import binascii
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vigc.platform.exports.validate.reading import ImageReference
from vigc.platform.images.decode import decode_batch
from vigc.platform.quality.settings import FilterSettings
from vigc.platform.quality.similar_images import Hashes, hashes_of, nearest
from vigc.platform.schema import MANIFEST
from vigc.platform.sources.addresses import absolute
from vigc.platform.sources.selection import IdList, read_ids

AT_ONCE = 64
SMALL = 32  # pixels; `perceptual_hash` needs no more
MAX_DISTANCE = FilterSettings().max_distance  # as `vigc filter` has it


@dataclass(frozen=True, slots=True)
class Opened:
    uri: str
    error: str | None
    phash: str | None


def address_of(image: ImageReference, folder: str | None) -> str | None:
    """Where an image lies; None where the file holds it, or does not say enough."""
    if image.is_inline or image.name is None:
        return None
    if "://" in image.name or image.name.startswith("/"):
        return image.name
    return None if folder is None else f"{folder.rstrip('/')}/{image.name}"


def open_all(images: Iterable[tuple[int, ImageReference]], folder: str | None) -> Iterator[tuple[int, Opened]]:
    """What came of each, with the row that it is of; those that no address is known of are left aside."""
    stream = iter(images)
    while some := list(islice(stream, AT_ONCE)):
        with tempfile.TemporaryDirectory(prefix="vigc-") as scratch:
            found = [(row, _place(image, folder, Path(scratch, str(n)))) for n, (row, image) in enumerate(some)]
            known = [(row, uri) for row, uri in found if uri is not None]
            yield from zip((row for row, _ in known), _opened([uri for _, uri in known]), strict=True)


def _place(image: ImageReference, folder: str | None, scratch: Path) -> str | None:
    if not image.is_inline:
        return address_of(image, folder)
    data = image.data
    if data is None:
        try:
            data = base64.b64decode(str(image.name).partition(",")[2], validate=True)
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
    """Images that must not be trained on, by their names, by their looks, or both."""

    def __init__(self, names: str | None = None, hashes: Hashes | None = None) -> None:
        """
        Args:
            names: a file of ids, as `read_ids` takes it.
            hashes: perceptual hashes of images.
        Raises:
            InputError: the file cannot be read.
        """
        self._ids = None if names is None else IdList(read_ids(absolute(names)))
        self._hashes = np.empty(0, np.uint64) if hashes is None else hashes

    def named(self, names: list[str]) -> NDArray[np.bool_]:
        """Which of these paths are on the list."""
        if self._ids is None or not names:
            return np.zeros(len(names), bool)
        return self._ids.among(pa.array(names, pa.string()))

    def like(self, phash: str | None) -> bool:
        """Whether an evaluation image looks like this."""
        return phash is not None and any(nearest(hashes_of([phash]), self._hashes, MAX_DISTANCE))
