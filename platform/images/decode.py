"""Decodes the image at an address to pixels at the model's size, or says why it cannot. A bad image never raises
across a row, nor does one that crashes its decoder, fills the memory or never ends: batches are decoded in a child
process, and whoever kills it twice is named.

Decoding equals Pillow's "upright by EXIF, on white, RGB, bicubic to a square" to the pixel, of the first frame; colour
profiles are not applied, as Pillow by itself and the models' own training do not. Ordinary JPEGs take a faster decoder
on the way. Only the small pixels leave this module, never the original: that keeps the object store small.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from vigc.platform.images.fetch import fetch, fetch_many
from vigc.platform.images.isolation import Child, ChildDied, ChildTimeout
from vigc.platform.images.refused import MAX_BYTES, Refused
from vigc.platform.records import RowError
from vigc.platform.schema import MANIFEST, schema_of
from vigc.platform.storage.retry import patience_s

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")  # JPEG includes the multi-picture files of cameras and phones
MAX_PIXELS = 89_478_485  # Pillow's own limit against decompression bombs: 256 MB as RGB
MAX_BYTES_PER_PIXEL = 24  # while a transparent image is laid on white and turned: Pillow takes 4 for each copy
TIME_LIMIT_S = 60.0  # for decoding one image; the largest ones take seconds on an idle core
FETCH_SLACK_S = 60.0
STRIP_ROWS = 64

ERROR_KINDS = {
    "missing": "the file is not there",
    "permission": "the file may not be read",
    "unreadable": "the storage gave an error",
    "empty": "the file has no bytes",
    "not_an_image": "the bytes are no image",
    "truncated": "the image is cut short or damaged",
    "too_large": "more bytes or pixels than are decoded",
    "unsupported": "an image, but of a kind that is not read",
    "crashed": "the process that decodes died of it, twice",
    "too_slow": "decoding it did not end in time, twice",
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
    sha256: str | None = None  # of the file's bytes; set whenever they could be read, unless the decoder died of them
    phash: str | None = None
    error_kind: str | None = None  # a key of ERROR_KINDS
    error_message: str | None = None


# The batch that a worker receives: the manifest's columns and what decoding found.
DECODED = pa.schema(
    [*MANIFEST, *(field for field in schema_of(Decoded) if field.name not in MANIFEST.names)],
)


Decoder = Callable[[bytes, int, int], Decoded]  # bytes, image_size, max_pixels

_opening = threading.Lock()
_OUT_OF_MEMORY = Refused("too_large", "decoding it takes more memory than there is for it")


def decode_batch(
    batch: pa.Table,
    image_size: int,
    max_pixels: int = MAX_PIXELS,
    *,
    time_limit_s: float = TIME_LIMIT_S,
    decoder: Decoder | None = None,
) -> pa.Table:
    """Manifest rows in, DECODED rows out, same order. A failed row keeps the size that its source stated.

    Args:
        max_pixels: larger images are `too_large`, by their header alone.
        time_limit_s: for decoding one image, its fetching not counted.
        decoder: `decode_bytes` unless told; runs in a child process, which this process keeps for the next batch.
    """
    child = _kept_child(os.getpid(), decoder or decode_bytes, image_size, max_pixels, time_limit_s)
    records = batch.to_pylist()
    rows = []
    for record, decoded in zip(records, _decode_apart(child, [r["uri"] for r in records], time_limit_s), strict=True):
        found = {name: getattr(decoded, name) for name in schema_of(Decoded).names}
        if decoded.pixels is None:
            found |= {"width": record["width"], "height": record["height"]}
        rows.append(record | found)
    return pa.Table.from_pylist(rows, schema=DECODED)


def decode(uri: str, image_size: int, max_pixels: int = MAX_PIXELS) -> Decoded:
    """Decodes one image in this process."""
    try:
        return decode_bytes(fetch(uri), image_size, max_pixels)
    except Refused as refused:
        return _failed(refused)


def decode_bytes(data: bytes, image_size: int, max_pixels: int) -> Decoded:
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        original = open_upright(data, max_pixels)
        small = original.resize((image_size, image_size), Image.Resampling.BICUBIC)
        return Decoded(original.width, original.height, small.tobytes(), sha256, perceptual_hash(small))
    except Exception as error:  # noqa: BLE001  on damaged files Pillow raises nearly all there is; here it becomes data
        return refused_as(error, sha256)


def refused_as(error: Exception, sha256: str | None = None) -> Decoded:
    """What an exception of decoding says about the image."""
    return _failed(_refusal(error), sha256)


def _refusal(error: Exception) -> Refused:
    if isinstance(error, Refused):
        return error
    return _OUT_OF_MEMORY if isinstance(error, MemoryError) else _damaged(error)


def _failed(refused: Refused, sha256: str | None = None) -> Decoded:
    return Decoded(sha256=sha256, error_kind=refused.error.kind, error_message=refused.error.message)


def _damaged(error: Exception) -> Refused:
    return Refused("truncated", f"{type(error).__name__}: {error}")


class _Decoding:
    """The handler in the child: a list of addresses begins a batch, and each None is answered by its next image."""

    def __init__(self, decoder: Decoder, image_size: int, max_pixels: int, time_limit_s: float) -> None:
        self._decoder, self._settings, self._time_limit_s = decoder, (image_size, max_pixels), time_limit_s
        self._fetched: Iterator[bytes | Refused] = iter(())
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, whatever a decoder is doing

    def __call__(self, uris: list[str] | None) -> Decoded | None:
        if uris is not None:
            self._fetched = fetch_many(uris)
            return None
        data = next(self._fetched)
        if isinstance(data, Refused):
            return _failed(data)
        signal.setitimer(signal.ITIMER_REAL, self._time_limit_s)
        try:
            return self._decoder(data, *self._settings)
        except MemoryError:
            return _failed(_OUT_OF_MEMORY)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


@cache
def _kept_child(pid: int, decoder: Decoder, image_size: int, max_pixels: int, time_limit_s: float) -> Child:
    memory_bytes = MAX_BYTES + MAX_BYTES_PER_PIXEL * max_pixels
    return Child(_Decoding, (decoder, image_size, max_pixels, time_limit_s), memory_bytes=memory_bytes)


def _decode_apart(child: Child, uris: list[str], time_limit_s: float) -> Iterator[Decoded]:
    """The child has all addresses at once, and goes from one image to the next without waiting for this process. When
    it dies, the first image without an answer is tried once more, alone.
    """
    limit_s = time_limit_s + patience_s() + FETCH_SLACK_S  # in case that what hangs is the fetching
    position = 0
    while position < len(uris):
        remaining = uris[position:]
        for call in child.submit(remaining, *(None for _ in remaining))[1:]:
            try:
                decoded: Decoded = call.result(limit_s)
            except ChildDied as death:
                if death.exit_code is None:  # it could not be started, which no image is to blame for
                    raise
                yield _decode_alone(child, uris[position], time_limit_s, limit_s)
                position += 1
                break
            yield decoded
            position += 1


def _decode_alone(child: Child, uri: str, time_limit_s: float, limit_s: float) -> Decoded:
    try:
        decoded: Decoded = child.submit([uri], None)[1].result(limit_s)
    except ChildDied as death:
        if death.exit_code is None:
            raise
        if death.exit_code == -signal.SIGALRM:
            return _failed(Refused("too_slow", f"decoding it took longer than {time_limit_s:g} s, twice"))
        if isinstance(death, ChildTimeout):
            return _failed(Refused("too_slow", f"fetching and decoding it took too long twice: {death}"))
        return _failed(Refused("crashed", f"decoding it broke off twice: {death}"))
    return decoded


def perceptual_hash(image: Image.Image) -> str:
    """64-bit DCT hash, 16 hex digits; equals `imagehash.phash` of the same image."""
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


def open_upright(data: bytes, max_pixels: int) -> Image.Image:
    """The image in RGB, upright."""
    image = _identify(data, max_pixels)
    rgb = _decode_jpeg(data, image) or _to_rgb(image)
    transpose = _UPRIGHT.get(orientation_of(image))  # after decoding: asking a PNG loads it, and would hide its damage
    return rgb.transpose(transpose) if transpose is not None else rgb


def _identify(data: bytes, max_pixels: int) -> Image.Image:
    """Reads the header only."""
    try:
        with _any_size():
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise _unidentified(data) from error
    if image.width * image.height > max_pixels:
        raise Refused("too_large", f"{image.width} x {image.height} pixels; at most {max_pixels} are decoded")
    return image


@contextmanager
def _any_size() -> Iterator[None]:
    """Without Pillow's own limit, which only warns, and is one for the whole process: hence the lock."""
    with _opening:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _unidentified(data: bytes) -> Refused:
    if data.startswith((b"II*\0", b"MM\0*")):
        return Refused("unsupported", "a damaged TIFF, or one of numbers instead of colours; convert it to PNG")
    if data.startswith(_MAGIC) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
        return Refused("truncated", "the file begins like an image, but its header is cut short or damaged")
    if data[4:8] == b"ftyp":
        return Refused("unsupported", "HEIC, AVIF or a video; convert it to JPEG or PNG")
    try:
        with _any_size(), Image.open(io.BytesIO(data)) as image:
            return Refused("unsupported", f"{image.format} is not read; convert it to JPEG or PNG")
    except Exception:  # noqa: BLE001  any error means the same here: no reader knows these bytes
        return Refused("not_an_image", f"no image format begins with the bytes {data[:8].hex(' ')}")


def orientation_of(image: Image.Image) -> int:
    """The orientation as EXIF counts it; 1 is upright."""
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # noqa: BLE001  a broken EXIF block says nothing about the orientation; the image may be fine
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
        raise Refused("unsupported", f"colour mode {image.mode}: {error}") from error


def _to_8_bit(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """16-bit grays keep their scale; 32-bit and floating-point grays, which have none, are stretched to their range."""
    if values.dtype.itemsize == 2:
        return (values.astype(np.uint16) // 257).astype(np.uint8)
    # Strip by strip: as 64-bit numbers, of which several copies are needed, a large scan would take gigabytes.
    strips = [slice(top, top + STRIP_ROWS) for top in range(0, len(values), STRIP_ROWS)]
    low = min(_finite(values[strip]).min() for strip in strips)
    high = max(_finite(values[strip]).max() for strip in strips)
    stretched = np.empty(values.shape, np.uint8)
    for strip in strips:
        stretched[strip] = ((_finite(values[strip]) - low) * (255 / (high - low or 1))).round().astype(np.uint8)
    return stretched


def _finite(values: NDArray[np.generic]) -> NDArray[np.float64]:
    return np.nan_to_num(values.astype(np.float64))


def decode_crop(
    uri: str, image_size: int, rng: random.Random, min_scale: float, flip: bool, *, centred: bool = False
) -> bytes | RowError:
    """A random part of the image at the model's size, for training: `min_scale` to all of its area, at 3:4 to 4:3 of
    its shape, bicubic, mirrored where `flip`; or why there is none (model/README.md, "Images"). All of it is pressed
    into a square, or, where `centred`, the largest square in its middle is taken, as CLIP's image processor does.
    """
    try:
        original = open_upright(fetch(uri), MAX_PIXELS)
        width, height = original.size
        box = (0.0, 0.0, width, height) if not centred else _middle(width, height)
        if min_scale < 1:
            box = _random_box(rng, width, height, min_scale)
        small = original.resize((image_size, image_size), Image.Resampling.BICUBIC, box=box)
    except Exception as error:  # noqa: BLE001  as in `decode_bytes`
        return _refusal(error).error
    return (small.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else small).tobytes()


def thumbnail(uri: str, side: int) -> bytes | RowError:
    """A JPEG of the upright image, its longer side at most `side` pixels; or why there is none. In this process."""
    try:
        small = open_upright(fetch(uri), MAX_PIXELS)
        small.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=3.0)
        file = io.BytesIO()
        small.save(file, "JPEG", quality=82, optimize=True)
    except Exception as error:  # noqa: BLE001  as in `decode_bytes`
        return _refusal(error).error
    return file.getvalue()


def _middle(width: int, height: int) -> tuple[float, float, float, float]:
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _random_box(rng: random.Random, width: int, height: int, min_scale: float) -> tuple[float, float, float, float]:
    for _ in range(10):
        area = width * height * rng.uniform(min_scale, 1.0)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        across, down = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if across <= width and down <= height:
            left, top = rng.uniform(0, width - across), rng.uniform(0, height - down)
            return left, top, left + across, top + down
    return 0.0, 0.0, width, height
