from __future__ import annotations

import io
import os

import numpy as np
import pyarrow as pa
import pytest
from datasets import draw
from PIL import Image, ImageOps

from vigc.platform import images
from vigc.platform.images import DECODED, decode, decode_batch
from vigc.platform.records import ImageRecord
from vigc.platform.schema import MANIFEST, to_dict

SIZE = 24


def pixels_of(decoded):
    assert decoded.error_kind is None, decoded.error_message
    return np.frombuffer(decoded.pixels, np.uint8).reshape(SIZE, SIZE, 3)


def by_pillow(picture):
    return np.asarray(picture.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tiff", "gif"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_format_decodes_as_pillow_does(tmp_path, suffix, mode):
    draw(tmp_path / "x.png", 3, (61, 37))
    path = tmp_path / f"y.{suffix}"
    Image.open(tmp_path / "x.png").convert(mode).save(path)
    decoded = decode(str(path), SIZE)
    assert (decoded.width, decoded.height) == (61, 37)
    assert np.array_equal(pixels_of(decoded), by_pillow(Image.open(path)))


@pytest.mark.parametrize("suffix", ["jpg", "tiff", "png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_upright(tmp_path, orientation, suffix):
    draw(tmp_path / "x.png", 4, (40, 20))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"y.{suffix}"
    Image.open(tmp_path / "x.png").save(path, exif=exif)
    decoded = decode(str(path), SIZE)
    upright = ImageOps.exif_transpose(Image.open(path))
    assert upright.size == ((40, 20) if orientation < 5 else (20, 40))
    assert (decoded.width, decoded.height) == upright.size
    assert np.array_equal(pixels_of(decoded), by_pillow(upright))


def test_a_broken_exif_block_does_not_cost_the_picture(tmp_path):
    draw(tmp_path / "x.png", 4)
    Image.open(tmp_path / "x.png").save(tmp_path / "x.jpg", exif=b"Exif\x00\x00garbage")
    assert decode(str(tmp_path / "x.jpg"), SIZE).error_kind is None


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_what_is_transparent_becomes_white(tmp_path, mode):
    path = tmp_path / "x.png"
    if mode == "P":
        picture = Image.new("P", (10, 10), 0)
        picture.putpalette([9, 9, 9])
        picture.save(path, transparency=0)
    elif mode == "RGB":
        Image.new("RGB", (10, 10), (9, 9, 9)).save(path, transparency=(9, 9, 9))
    else:
        Image.new(mode, (10, 10)).save(path)
    assert (pixels_of(decode(str(path), SIZE)) == 255).all()


def test_sixteen_bit_float_one_bit_and_cmyk_pictures_keep_their_look(tmp_path):
    ramp = np.linspace(0, 1, 16)[None, :].repeat(16, 0)
    Image.fromarray((ramp * 65535).astype(np.uint16)).save(tmp_path / "16.png")
    Image.fromarray((ramp * 65535).astype(np.int32)).save(tmp_path / "32.tif")
    Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "float.tif")
    Image.fromarray((ramp * 255).astype(np.uint8)).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    for name in ("16.png", "32.tif", "float.tif", "cmyk.jpg"):
        row = pixels_of(decode(str(tmp_path / name), SIZE))[8, :, 0].astype(int)
        assert row[0] < 12, name
        assert row[-1] > 243, name
        assert (np.diff(row) > -6).all(), name
    Image.new("1", (8, 8), 1).save(tmp_path / "1.png")
    assert (pixels_of(decode(str(tmp_path / "1.png"), SIZE)) == 255).all()


def test_a_gif_gives_its_first_frame(tmp_path):
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    red.save(tmp_path / "x.gif", save_all=True, append_images=[blue])
    assert tuple(pixels_of(decode(str(tmp_path / "x.gif"), SIZE))[0, 0]) == (255, 0, 0)


def broken_files(folder):
    good = draw(folder / "good.png", 5, (200, 150))
    picture = Image.open(good)
    buffers = {}
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "GIF"):
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        buffers[kind] = buffer.getvalue()
    eps = io.BytesIO()
    picture.save(eps, "EPS")
    damaged = bytearray(buffers["PNG"])
    damaged[len(damaged) // 2] ^= 0xFF
    return {
        "empty": [b""],
        "not_an_image": [b"hello", b"<html></html>", b"\x00" * 100],
        "truncated": [
            *(data[: len(data) // 2] for data in buffers.values()),
            *(data[:20] for kind, data in buffers.items() if kind != "TIFF"),
            bytes(damaged),
        ],
        "unsupported": [eps.getvalue(), b"\x00\x00\x00\x18ftypheic" + b"\x00" * 40],
    }


def test_every_kind_of_broken_file_gets_its_reason_and_a_hash(tmp_path):
    path = tmp_path / "x.jpg"
    for kind, files in broken_files(tmp_path).items():
        for data in files:
            path.write_bytes(data)
            decoded = decode(str(path), SIZE)
            assert (decoded.error_kind, decoded.pixels) == (kind, None), (data[:12], decoded.error_message)
            assert decoded.error_message
            assert (decoded.sha256 is None) == (kind == "empty")


def test_what_cannot_be_read_says_why(tmp_path, monkeypatch):
    assert decode(str(tmp_path / "gone.jpg"), SIZE).error_kind == "missing"
    assert decode(str(tmp_path), SIZE).error_kind == "not_an_image"
    assert decode(str(tmp_path / ("x" * 300)), SIZE).error_kind == "unreadable"
    assert decode("a\0b", SIZE).error_kind == "unreadable"
    locked = draw(tmp_path / "locked.png", 1)
    monkeypatch.setattr("builtins.open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    assert decode(str(locked), SIZE).error_kind == "permission"


def test_a_picture_too_large_to_decode_is_refused_by_its_header_alone(tmp_path, monkeypatch):
    bomb = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(bomb)
    assert decode(str(bomb), SIZE).error_kind == "too_large"
    monkeypatch.setattr(images, "MAX_PIXELS", 99)
    monkeypatch.setattr(images, "MAX_BYTES", 10_000)
    assert decode(str(draw(tmp_path / "x.png", 1, (10, 10))), SIZE).error_kind == "too_large"
    (tmp_path / "long.png").write_bytes(b"x" * 10_001)
    assert decode(str(tmp_path / "long.png"), SIZE).error_kind == "too_large"


def test_a_batch_keeps_its_order_its_columns_and_their_types(tmp_path):
    good = ImageRecord("good", str(draw(tmp_path / "x.png", 1, (12, 8))), 99, 99)
    bad = ImageRecord("bad", str(tmp_path / "gone.png"), 64, 48)
    rows = [to_dict(record) for record in (bad, good, bad)]
    out = decode_batch(pa.Table.from_pylist(rows, schema=MANIFEST), SIZE)
    assert out.schema.equals(DECODED)
    assert out["image_id"].to_pylist() == ["bad", "good", "bad"]
    assert out["width"].to_pylist() == [64, 12, 64]
    assert out["error_kind"].to_pylist() == ["missing", None, "missing"]
    failures = decode_batch(pa.Table.from_pylist(rows[:1], schema=MANIFEST), SIZE)
    assert failures.schema.equals(DECODED)


def test_the_perceptual_hash_is_near_for_copies_and_far_for_others(tmp_path):
    def phash(path):
        return int(decode(str(path), SIZE).phash, 16)

    original = draw(tmp_path / "a.png", 1, (300, 200))
    Image.open(original).resize((150, 100)).save(tmp_path / "copy.jpg", quality=70)
    other = draw(tmp_path / "b.png", 2, (300, 200))
    assert (phash(original) ^ phash(tmp_path / "copy.jpg")).bit_count() <= 6
    assert (phash(original) ^ phash(other)).bit_count() >= 16
    assert len(decode(str(original), SIZE).phash) == 16


def test_the_hash_is_of_the_files_bytes(tmp_path):
    path = tmp_path / "x.jpg"
    path.write_bytes(b"abc")
    assert decode(os.fspath(path), SIZE).sha256.startswith("ba7816bf8f01cfea")
