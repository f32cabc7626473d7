"""An image as a server of a model wants it: a JPEG file of limited size, upright, and without metadata.

A JPEG that is upright and small enough keeps its pixels to the bit: only its metadata (EXIF with place and time,
comments, colour profiles, previews, what cameras append) are cut out. Everything else is encoded anew.
"""

from __future__ import annotations

import hashlib
import io
import math
import re

import numpy as np
import pyarrow as pa
import simplejpeg
from PIL import Image

from vigc.platform.images.decode import (
    Decoded,
    decode_batch,
    open_upright,
    orientation_of,
    perceptual_hash,
    refused_as,
)

HASH_SIDE = 224  # of the image that the perceptual hash is of
QUALITY = 95
_KEPT = frozenset({0xE0, 0xEE})  # JFIF, and Adobe's, which says how colours are stored
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # in a scan, where \xff00 and restarts are data
_SOI, _EOI, _SOS, _COMMENT = 0xD8, 0xD9, 0xDA, 0xFE


def encode_batch(batch: pa.Table, side: int, max_pixels: int) -> pa.Table:
    """As `decode_batch`, but `pixels` holds a JPEG file.

    Args:
        side: an image has at most as many pixels as a square of this side.
        max_pixels: larger images are `too_large`, by their header alone.
    """
    return decode_batch(batch, side, max_pixels, decoder=encode_bytes)


def encode_bytes(data: bytes, side: int, max_pixels: int) -> Decoded:
    """One image; see `encode_batch`."""
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        upright = open_upright(data, max_pixels)
        with Image.open(io.BytesIO(data)) as stored:
            is_plain = stored.mode in ("RGB", "L") and orientation_of(stored) == 1
        small = upright.resize((HASH_SIDE, HASH_SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0)
        encoded = encode_upright(upright, data, side * side, is_turned=not is_plain)
        return Decoded(upright.width, upright.height, encoded, sha256, perceptual_hash(small))
    except Exception as error:  # noqa: BLE001  as in `decode_bytes`: on damaged files nearly anything is raised
        return refused_as(error, sha256)


def encode_upright(upright: Image.Image, file: bytes, max_pixels: int, *, is_turned: bool) -> bytes:
    """A JPEG file of at most so many pixels.

    Args:
        upright: the decoded image, RGB.
        file: what it was decoded from.
        is_turned: whether the file's own pixels are not those of `upright`: turned, or stored in other colours.
    """
    width, height = upright.size
    if width * height <= max_pixels:
        if not is_turned and (plain := without_metadata(file)) is not None:
            return plain
    else:
        scale = math.sqrt(max_pixels / (width * height))
        size = max(1, int(width * scale)), max(1, int(height * scale))
        upright = upright.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    encoded: bytes = simplejpeg.encode_jpeg(np.asarray(upright), QUALITY, "RGB", "444")
    return encoded


def without_metadata(data: bytes) -> bytes | None:
    """A JPEG file with what is needed to decode it and nothing else; None: it is no JPEG file that can be read so."""
    if not data.startswith(b"\xff\xd8"):
        return None
    parts, position = [data[:2]], 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker == _EOI:
            return b"".join([*parts, b"\xff\xd9"])
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if end > len(data):
            return None
        is_metadata = (0xE0 <= marker <= 0xEF and marker not in _KEPT) or marker == _COMMENT
        if marker == _SOS:
            found = _NEXT_MARKER.search(data, end)
            if found is None:
                return None
            end = found.start()
        if not is_metadata:
            parts.append(data[position:end])
        position = end
        if data[position : position + 2] == b"\xff\xd9":
            return b"".join([*parts, b"\xff\xd9"])
    return None
