"""Fetch and decode: a path becomes pixels at the model's size, or a reason why not. A bad image never raises across a
row.

Decoding equals Pillow's "upright by EXIF, on white, RGB, bicubic to a square" to the pixel; ordinary JPEGs take a
faster decoder on the way. Only the small pixels leave this module, never the original: that is what keeps the object
store small.
"""

from __future__ import annotations

import errno
import hashlib
import io
import math
import os
import random
import warnings
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from vigc.platform.records import RowError
from vigc.platform.schema import MANIFEST, schema_of

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")  # JPEG includes the multi-picture files of cameras and phones
MAX_BYTES = 512 * 2**20
MAX_PIXELS = 89_478_485  # Pillow's own limit against decompression bombs: 256 MB as RGB

ERROR_KINDS = {
    "missing": "the file is not there",
    "permission": "the file may not be read",
    "unreadable": "the storage gave an error",
    "empty": "the file has no bytes",
    "not_an_image": "the bytes are no picture",
    "truncated": "the picture is cut short or damaged",
    "too_large": "more bytes or pixels than are decoded",
    "unsupported": "a picture, but of a kind that is not read",
}

# What the file's first bytes say, for files that Pillow then cannot make sense of.
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM", b"II*\x00", b"MM\x00*")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True, slots=True)
class Decoded:
    """What an image file gave. Exactly one of `pixels` and `error_kind` is set."""

    width: int | None = None  # of the upright original
    height: int | None = None
    pixels: bytes | None = None  # uint8 RGB, image_size x image_size x 3, row by row
    sha256: str | None = None  # of the file's bytes; set whenever they could be read
    phash: str | None = None
    error_kind: str | None = None  # a key of ERROR_KINDS
    error_message: str | None = None


# The batch that a worker receives: the manifest's columns and what decoding found.
DECODED = pa.schema(
    [*MANIFEST, *(field for field in schema_of(Decoded) if field.name not in MANIFEST.names)],
)


class _Unusable(Exception):
    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.error = RowError(kind, message)


def decode_batch(batch: pa.Table, image_size: int, max_pixels: int = MAX_PIXELS) -> pa.Table:
    """Manifest rows in, DECODED rows out, same order. A failed row keeps the size that its source stated."""
    rows = []
    for record in batch.to_pylist():
        decoded = decode(record["uri"], image_size)
        found = {name: getattr(decoded, name) for name in schema_of(Decoded).names}
        if decoded.pixels is None:
            found |= {"width": record["width"], "height": record["height"]}
        rows.append(record | found)
    return pa.Table.from_pylist(rows, schema=DECODED)


def decode(uri: str, image_size: int) -> Decoded:
    sha256 = None
    try:
        data = fetch(uri)
        sha256 = hashlib.sha256(data).hexdigest()
        original = _open_upright(data)
        small = original.resize((image_size, image_size), Image.Resampling.BICUBIC)
    except _Unusable as fault:
        return Decoded(sha256=sha256, error_kind=fault.error.kind, error_message=fault.error.message)
    except Exception as error:  # noqa: BLE001  on damaged files Pillow raises nearly all there is; here it becomes data
        return Decoded(sha256=sha256, error_kind="truncated", error_message=f"{type(error).__name__}: {error}")
    return Decoded(original.width, original.height, small.tobytes(), sha256, perceptual_hash(small))


def fetch(uri: str) -> bytes:
    try:
        size = os.stat(uri).st_size
        if size > MAX_BYTES:
            raise _Unusable("too_large", f"{size} bytes; at most {MAX_BYTES} are read")
        with open(uri, "rb") as file:
            data = file.read()
    except FileNotFoundError as error:
        raise _Unusable("missing", f"no file at {uri}") from error
    except PermissionError as error:
        raise _Unusable("permission", f"{uri} may not be read by this user") from error
    except IsADirectoryError as error:
        raise _Unusable("not_an_image", f"{uri} is a folder") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        code = errno.errorcode.get(getattr(error, "errno", None) or 0, type(error).__name__)
        raise _Unusable("unreadable", f"{uri}: {code} {error}") from error
    if not data:
        raise _Unusable("empty", "the file has 0 bytes")
    return data


def perceptual_hash(image: Image.Image) -> str:
    """64-bit DCT hash, 16 hex digits; equals `imagehash.phash` of the same picture."""
    gray = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), dtype=np.float64)
    basis = _dct_basis()
    low = basis @ gray @ basis.T
    bits = (low > np.median(low)).flatten()
    return np.packbits(bits).tobytes().hex()


@cache
def _dct_basis() -> NDArray[np.float64]:
    """The 8 lowest of 32 cosines (DCT-II, unscaled)."""
    frequency, position = np.arange(8)[:, None], np.arange(32)[None, :]
    return np.cos(np.pi * frequency * (2 * position + 1) / 64)


def _open_upright(data: bytes) -> Image.Image:
    """RGB, upright."""
    image = _identify(data)
    rgb = _decode_jpeg(data, image) or _to_rgb(image)
    transpose = _UPRIGHT.get(_orientation(image))  # after decoding: asking a PNG loads it, and would hide its damage
    return rgb.transpose(transpose) if transpose is not None else rgb


def _identify(data: bytes) -> Image.Image:
    """Reads the header only."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _Unusable("too_large", f"{error}; at most {MAX_PIXELS} pixels are decoded") from error
    except UnidentifiedImageError as error:
        raise _unidentified(data) from error
    if image.width * image.height > MAX_PIXELS:
        raise _Unusable("too_large", f"{image.width} x {image.height} pixels; at most {MAX_PIXELS} are decoded")
    return image


def _unidentified(data: bytes) -> _Unusable:
    if data.startswith((b"II*\0", b"MM\0*")):
        return _Unusable("unsupported", "a damaged TIFF, or one of numbers instead of colours; convert it to PNG")
    if data.startswith(_MAGIC) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
        return _Unusable("truncated", "the file begins like an image, but its header is cut short or damaged")
    if data[4:8] == b"ftyp":
        return _Unusable("unsupported", "HEIC, AVIF or a video; convert it to JPEG or PNG")
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _Unusable("unsupported", f"{image.format} is not read; convert it to JPEG or PNG")
    except Exception:  # noqa: BLE001  any error means the same here: no reader knows these bytes
        return _Unusable("not_an_image", f"no image format begins with the bytes {data[:8].hex(' ')}")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # noqa: BLE001  a broken EXIF block says nothing about the orientation; the picture may be fine
        return 1


def _decode_jpeg(data: bytes, image: Image.Image) -> Image.Image | None:
    """libjpeg-turbo without Pillow's overhead, for the common kinds; None leaves the file to Pillow."""
    if image.format != "JPEG" or image.mode not in ("RGB", "L"):
        return None
    try:
        return Image.fromarray(simplejpeg.decode_jpeg(data, colorspace="RGB"))
    except ValueError:
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_to_8_bit(np.asarray(image)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise _Unusable("unsupported", f"colour mode {image.mode}: {error}") from error


def _to_8_bit(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """16-bit grays keep their scale; 32-bit and floating-point grays, which have none, are stretched to their range."""
    if values.dtype.itemsize == 2:
        return (values.astype(np.uint16) // 257).astype(np.uint8)
    gray = np.nan_to_num(values.astype(np.float64))
    low, high = gray.min(), gray.max()
    stretched: NDArray[np.uint8] = ((gray - low) * (255 / (high - low or 1))).round().astype(np.uint8)
    return stretched


def decode_crop(uri: str, image_size: int, rng: random.Random, min_scale: float, flip: bool) -> bytes | RowError:
    """A random part of the picture at the model's size, for training: `min_scale` to all of its area, at 3:4 to 4:3 of
    its shape, bicubic, mirrored where `flip`; or why there is none (facts §1.5).
    """
    try:
        original = _open_upright(fetch(uri))
        width, height = original.size
        box = _random_box(rng, width, height, min_scale) if min_scale < 1 else (0.0, 0.0, width, height)
        small = original.resize((image_size, image_size), Image.Resampling.BICUBIC, box=box)
    except _Unusable as fault:
        return fault.error
    except Exception as error:  # noqa: BLE001  as in `decode`
        return RowError("truncated", f"{type(error).__name__}: {error}")
    return (small.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else small).tobytes()


def _random_box(rng: random.Random, width: int, height: int, min_scale: float) -> tuple[float, float, float, float]:
    for _ in range(10):
        area = width * height * rng.uniform(min_scale, 1.0)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        across, down = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if across <= width and down <= height:
            left, top = rng.uniform(0, width - across), rng.uniform(0, height - down)
            return left, top, left + across, top + down
    return 0.0, 0.0, width, height
