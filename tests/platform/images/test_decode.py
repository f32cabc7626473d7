from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import odd_images
import poison_decoders
import pyarrow as pa
import pytest
from datasets import draw
from PIL import Image, ImageOps

from vigc.platform.images import decode as images
from vigc.platform.images.decode import DECODED, ERROR_KINDS, decode, decode_batch
from vigc.platform.records import ImageRecord
from vigc.platform.schema import MANIFEST, to_dict

SIZE = 24
DECODE_AND_TELL = poison_decoders.decode_and_tell


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


def test_a_picture_too_large_to_decode_is_refused_by_its_header_alone(tmp_path):
    bomb = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(bomb)
    assert decode(str(bomb), SIZE).error_kind == "too_large"
    small = draw(tmp_path / "x.png", 1, (10, 10))
    assert decode(str(small), SIZE, max_pixels=99).error_kind == "too_large"
    assert decode(str(small), SIZE, max_pixels=100).error_kind is None
    rows = pa.Table.from_pylist([to_dict(ImageRecord("x", str(small)))], schema=MANIFEST)
    assert decode_batch(rows, SIZE, max_pixels=99)["error_kind"].to_pylist() == ["too_large"]


def test_the_limit_can_be_raised_above_pillows_own(tmp_path):
    large = tmp_path / "large.png"
    Image.new("1", (10_000, 9_500)).save(large)
    assert decode(str(large), SIZE).error_kind == "too_large"
    assert decode(str(large), SIZE, max_pixels=100_000_000).error_kind is None
    assert Image.MAX_IMAGE_PIXELS == images.MAX_PIXELS


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return odd_images.make(tmp_path_factory.mktemp("odd"))


def quarters(pixels):
    edge = SIZE // 4
    return [pixels[y, x].astype(int) for y in (edge, SIZE - edge) for x in (edge, SIZE - edge)]


def test_the_corpus_is_large_and_the_same_each_time(corpus, tmp_path):
    assert len(corpus) >= 60
    assert {odd.kind for odd in corpus} >= set(ERROR_KINDS) - {"permission", "crashed", "too_slow"}
    again = odd_images.make(tmp_path)
    for one, other in zip(corpus, again, strict=True):
        if one.kind is None:
            assert decode(one.uri, SIZE).sha256 == decode(other.uri, SIZE).sha256, one.uri


def test_every_odd_picture_decodes_right_and_every_bad_file_has_its_reason(corpus):
    for odd in corpus:
        decoded = decode(odd.uri, SIZE)
        assert decoded.error_kind == odd.kind, (odd.uri, decoded.error_message)
        if odd.kind is not None:
            assert decoded.pixels is None
            assert decoded.error_message, odd.uri
        else:
            assert (decoded.width, decoded.height) == odd.size, odd.uri
            for found, expected in zip(quarters(pixels_of(decoded)), odd.colours, strict=True):
                assert abs(found - expected).max() <= odd.tolerance, (odd.uri, found, expected)


def test_every_odd_picture_equals_what_pillow_makes_of_it(corpus):
    for odd in corpus:
        path = Path(odd.uri)
        if odd.kind is None and path.is_file() and not path.name.startswith(("gray16", "gray32", "float")):
            with Image.open(path) as picture:
                upright = ImageOps.exif_transpose(picture)
                if upright.has_transparency_data:
                    white = Image.new("RGBA", upright.size, "white")
                    upright = Image.alpha_composite(white, upright.convert("RGBA"))
                assert np.array_equal(pixels_of(decode(odd.uri, SIZE)), by_pillow(upright)), odd.uri


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "4:1:1"])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"optimize": True}, {"restart_marker_rows": 1}], ids=str
)
def test_the_fast_jpeg_path_equals_pillow_for_every_way_to_write_a_jpeg(tmp_path, subsampling, options):
    picture = Image.open(draw(tmp_path / "x.png", 5, (131, 77)))
    for quality in (30, 90):
        path = tmp_path / "y.jpg"
        picture.save(path, subsampling=subsampling, quality=quality, **options)
        assert np.array_equal(pixels_of(decode(str(path), SIZE)), by_pillow(Image.open(path)))


def test_a_name_that_is_not_utf_8_is_found_and_can_be_told(tmp_path):
    uri = odd_images.undecodable_name(tmp_path)
    assert decode(uri, SIZE).error_kind is None
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    assert decode(path, SIZE).error_kind is None
    os.unlink(path)
    missing = decode(path, SIZE)
    assert missing.error_kind == "missing"
    missing.error_message.encode()
    assert "caf" in missing.error_message


def table_of(uris):
    return pa.Table.from_pylist([to_dict(ImageRecord(f"{i}", uri)) for i, uri in enumerate(uris)], schema=MANIFEST)


def test_a_corpus_of_bad_images_among_good_ones_costs_none_of_the_good(corpus, tmp_path):
    good = [str(draw(tmp_path / f"{i}.jpg", i)) for i in range(100)]
    uris = list(good)
    for number, odd in enumerate(corpus):
        uris.insert(number * 2, odd.uri)
    kinds = {odd.uri: odd.kind for odd in corpus}
    out = decode_batch(table_of(uris), SIZE)
    assert out["uri"].to_pylist() == uris
    assert out["error_kind"].to_pylist() == [kinds.get(uri) for uri in uris]
    assert [value is None for value in out["pixels"].to_pylist()] == [kinds.get(uri) is not None for uri in uris]
    there = dict(zip(uris, out["pixels"].to_pylist(), strict=True))
    assert all(there[uri] == decode(uri, SIZE).pixels for uri in good)


def poisoned(path, text):
    return str(_saved(draw(path.with_suffix(".png"), 1), path, text))


def _saved(png, path, text):
    Image.open(png).save(path, comment=text)
    return path


def test_pictures_that_crash_fill_or_stop_the_decoder_are_named_and_their_neighbours_decode(tmp_path):
    uris = [str(draw(tmp_path / f"{i}.jpg", i)) for i in range(100)]
    for place, disease in ((10, "crash"), (11, "memory"), (50, "sleep")):
        uris[place] = poisoned(tmp_path / f"{disease}.jpg", f"POISON {disease}")
    out = decode_batch(table_of(uris), SIZE, 10**6, decoder=poison_decoders.decode_or_suffer, time_limit_s=3.0)
    kinds = out["error_kind"].to_pylist()
    assert (kinds[10], kinds[11], kinds[50]) == ("crashed", "too_large", "too_slow")
    assert sum(kind is None for kind in kinds) == 97
    assert sum(value is not None for value in out["pixels"].to_pylist()) == 97
    messages = out["error_message"].to_pylist()
    assert "SIGSEGV" in messages[10]
    assert "memory" in messages[11]
    assert "longer than 3 s" in messages[50]
    again = decode_batch(table_of(uris[:10]), SIZE, 10**6, decoder=poison_decoders.decode_or_suffer, time_limit_s=3.0)
    assert again["error_kind"].null_count == 10


def test_a_picture_that_was_there_when_the_decoder_died_once_has_a_second_chance(tmp_path):
    once = poisoned(tmp_path / "once.jpg", f"POISON once {tmp_path / 'marker'};")
    uris = [str(draw(tmp_path / "a.jpg", 1)), once, str(draw(tmp_path / "b.jpg", 2))]
    out = decode_batch(table_of(uris), SIZE, decoder=poison_decoders.decode_or_die_once)
    assert (tmp_path / "marker").exists()
    assert out["error_kind"].null_count == 3


def test_one_child_serves_batch_after_batch_until_it_dies(tmp_path):
    batch = table_of([str(draw(tmp_path / f"{i}.jpg", i)) for i in range(3)])
    pids = set()
    for _ in range(3):
        pids |= {told.split()[0] for told in decode_batch(batch, SIZE, decoder=DECODE_AND_TELL)["phash"].to_pylist()}
    assert len(pids) == 1
    os.kill(int(next(iter(pids))), 9)
    out = decode_batch(batch, SIZE, decoder=DECODE_AND_TELL)
    assert out["error_kind"].null_count == 3
    assert {told.split()[0] for told in out["phash"].to_pylist()} != pids


def test_fifty_megapixels_take_less_than_three_gigabytes(tmp_path):
    noise = np.random.default_rng(1).integers(0, 255, (500, 500), dtype=np.uint8)
    photo = Image.fromarray(np.tile(noise, (14, 15))).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(tmp_path / "photo.jpg", exif=exif)
    alpha = photo.convert("RGBA")
    alpha.putalpha(Image.new("L", photo.size, 128))
    alpha.save(tmp_path / "alpha.webp.png", compress_level=1)
    Image.fromarray(np.asarray(photo.convert("L")).astype(np.float32)).save(tmp_path / "float.tif")
    names = ["photo.jpg", "alpha.webp.png", "float.tif", "photo.jpg"]
    out = decode_batch(table_of([str(tmp_path / name) for name in names]), SIZE, decoder=DECODE_AND_TELL)
    assert out["error_kind"].null_count == 4
    assert out["width"].to_pylist() == [7000, 7500, 7500, 7000]
    peak_kb = max(int(told.split()[1]) for told in out["phash"].to_pylist())
    assert peak_kb < 2_000_000


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
