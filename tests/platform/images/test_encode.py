"""Images as servers get them: upright, small enough, and with nothing in them but the image."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from vigc.platform.images.decode import decode_bytes
from vigc.platform.images.encode import encode_batch, encode_bytes, without_metadata
from vigc.platform.schema import MANIFEST

MAX_PIXELS = 10**7


def photograph(width=80, height=60, kind="JPEG", mode="RGB", **options):
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    file = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).convert(mode).save(file, kind, **options)
    return file.getvalue()


def exif(orientation=1):
    found = Image.Exif()
    found[0x0112] = orientation
    found[0x010F] = "SECRET CAMERA"
    return found


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_a_small_upright_jpeg_keeps_its_pixels_to_the_bit_and_loses_its_metadata():
    data = photograph(exif=exif(), comment=b"SECRET WORDS", icc_profile=b"SECRET PROFILE", progressive=True)
    found = encode_bytes(data, 100, MAX_PIXELS)
    assert b"SECRET" in data
    assert b"SECRET" not in found.pixels
    assert (pixels(found.pixels) == pixels(data)).all()
    assert (found.width, found.height) == (80, 60)
    assert found.sha256 == decode_bytes(data, 16, MAX_PIXELS).sha256


def test_what_a_camera_appends_behind_the_image_is_cut_off():
    assert without_metadata(photograph() + b"SECRET VIDEO").endswith(b"\xff\xd9")


def test_a_turned_image_is_turned_upright():
    data = photograph(exif=exif(orientation=6))
    found = encode_bytes(data, 100, MAX_PIXELS)
    assert (found.width, found.height) == (60, 80)
    assert pixels(found.pixels).shape == (80, 60, 3)
    assert b"SECRET" not in found.pixels


def test_a_large_image_is_made_as_small_as_asked_and_keeps_its_shape():
    found = encode_bytes(photograph(400, 200), 100, MAX_PIXELS)
    height, width, _ = pixels(found.pixels).shape
    assert width * height <= 100 * 100
    assert width / height == pytest.approx(2, rel=0.03)
    assert (found.width, found.height) == (400, 200)  # of the original


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_other_formats_become_a_jpeg(kind):
    found = encode_bytes(photograph(kind=kind), 100, MAX_PIXELS)
    assert found.pixels.startswith(b"\xff\xd8")
    assert pixels(found.pixels).shape == (60, 80, 3)


def test_an_image_in_the_colours_of_print_is_encoded_anew():
    found = encode_bytes(photograph(mode="CMYK"), 100, MAX_PIXELS)
    assert Image.open(io.BytesIO(found.pixels)).mode == "RGB"


def test_half_an_image_and_none_are_failed_rows(tmp_path):
    data = photograph(200, 200)
    files = {"whole.jpg": data, "half.jpg": data[: len(data) // 2], "none.jpg": b"words"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    records = [{"image_id": name, "uri": str(tmp_path / name)} for name in files]
    found = encode_batch(pa.Table.from_pylist(records, schema=MANIFEST), 100, MAX_PIXELS).to_pylist()
    assert [row["error_kind"] for row in found] == [None, "truncated", "not_an_image"]
    assert found[0]["phash"]
