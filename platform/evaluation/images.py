"""Images as their files are, for models that make their own pixels of them: upright, RGB, whole."""

from __future__ import annotations

import hashlib
import io

import pyarrow as pa
from PIL import Image

from vigc.platform.images.decode import Decoded, decode_batch, open_upright, refused_as

_KEPT = {"JPEG", "PNG", "WEBP"}  # what models and endpoints read


def whole_images(batch: pa.Table, max_side: int, max_pixels: int) -> pa.Table:
    """As `decode.decode_batch`, but `pixels` holds a JPEG, PNG or WebP file, its longer side at most `max_side`."""
    return decode_batch(batch, max_side, max_pixels, decoder=_whole)


def _whole(data: bytes, max_side: int, max_pixels: int) -> Decoded:
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        upright = open_upright(data, max_pixels)
        width, height = upright.size
        with Image.open(io.BytesIO(data)) as stored:
            is_plain = (
                stored.format in _KEPT and stored.mode in ("RGB", "L") and not stored.getexif().get(0x0112, 0) > 1
            )
        if is_plain and max(width, height) <= max_side:
            return Decoded(width, height, data, sha256)
        upright.thumbnail((max_side, max_side), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        upright.save(file, "PNG")
        return Decoded(width, height, file.getvalue(), sha256)
    except Exception as error:  # noqa: BLE001  as in `images.decode_bytes`: on damaged files nearly anything is raised
        return refused_as(error, sha256)
