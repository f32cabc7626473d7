"""Pictures that decode right although they are odd, and files that give a reason because they are bad; the same each
time they are made.

What decodes shows four colours, upright: red and green above, blue and yellow below. Exceptions say what they show.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

RED, GREEN, BLUE, YELLOW = (220, 40, 40), (40, 180, 60), (40, 60, 210), (230, 220, 50)
FOUR = (RED, GREEN, BLUE, YELLOW)
WHITE = ((255, 255, 255),) * 4
SIZE = (64, 48)


@dataclass(frozen=True)
class Odd:
    """One file and what becomes of it."""

    uri: str
    kind: str | None = None  # the reason why it does not decode
    size: tuple[int, int] = SIZE  # of the upright original
    colours: tuple[tuple[int, int, int], ...] = FOUR  # in the middle of each quarter
    tolerance: int = 14


def four_colours(size: tuple[int, int] = SIZE) -> Image.Image:
    small = Image.new("RGB", (2, 2))
    small.putdata(FOUR)
    return small.resize(size, Image.Resampling.NEAREST)


def make(folder: Path) -> list[Odd]:
    return [*_odd(folder), *_bad(folder)]


def _odd(folder: Path) -> list[Odd]:
    picture = four_colours()
    gray = tuple((value, value, value) for value in (_luma(colour) for colour in FOUR))
    mask = Image.new("L", SIZE, 255)
    mask.paste(0, (0, 0, 32, 48))
    half_clear = picture.copy()
    half_clear.putalpha(mask)
    half_white = (WHITE[0], GREEN, WHITE[0], YELLOW)
    other = Image.new("RGB", SIZE, "black")
    ramp = np.asarray(picture.convert("L"))
    odd = [
        Odd(_save(picture.convert("CMYK"), folder / "cmyk.jpg", quality=95)),
        Odd(_write(folder / "cmyk-without-adobe.jpg", _without_adobe(_bytes(picture.convert("CMYK"), "JPEG")))),
        Odd(_write(folder / "ycck.jpg", _ycck(picture))),
        Odd(_save(picture, folder / "progressive.jpg", quality=95, progressive=True)),
        Odd(_save(picture.convert("L"), folder / "gray.jpg", quality=95), colours=gray),
        Odd(_save(picture, folder / "profile.jpg", quality=95, icc_profile=_swapped_profile())),
        Odd(_save(picture, folder / "profile.png", icc_profile=_swapped_profile())),
        Odd(_save(picture, folder / "broken-exif.jpg", quality=95, exif=b"Exif\x00\x00garbage")),
        Odd(_write(folder / "tail.jpg", _bytes(picture, "JPEG") + b"more than a picture" * 99)),
        Odd(_write(folder / "png-named.jpg", _bytes(picture, "PNG"))),
        Odd(_save(picture, folder / "pair.mpo", save_all=True, append_images=[other.copy()], quality=95)),
        Odd(_save(Image.fromarray(ramp.astype(np.uint16) * 257), folder / "gray16.png"), colours=gray),
        Odd(_save(Image.fromarray(ramp.astype(">u2") * 257), folder / "gray16-big-endian.tif"), colours=gray),
        Odd(_write(folder / "rgb16.png", _png16(np.asarray(picture)))),
        Odd(_write(folder / "rgba16.png", _png16(np.asarray(half_clear))), colours=half_white),
        Odd(_save(picture.convert("1"), folder / "bits.png"), tolerance=256),
        Odd(_save(Image.fromarray(_stretched(ramp)), folder / "float.tif"), colours=_stretch(gray)),
        Odd(_save(Image.fromarray(_stretched(ramp).astype(np.int32)), folder / "gray32.tif"), colours=_stretch(gray)),
        Odd(_save(half_clear, folder / "clear.png"), colours=half_white),
        Odd(_save(half_clear, folder / "clear.webp", lossless=True), colours=half_white),
        Odd(_save(half_clear.quantize(16), folder / "palette-alpha.png"), colours=half_white),
        Odd(_save(half_clear.convert("LA"), folder / "gray-alpha.png"), colours=_half(gray)),
        Odd(_save(picture.quantize(16), folder / "moving.gif", save_all=True, append_images=[other.quantize(2)])),
        Odd(_save(picture, folder / "moving.png", save_all=True, append_images=[other])),
        Odd(_save(picture, folder / "moving.webp", save_all=True, append_images=[other], lossless=True)),
        Odd(_save(picture, folder / "pages.tif", save_all=True, append_images=[other])),
        Odd(_save(picture, folder / "inside-tiff.tif", compression="jpeg", quality=95)),
        Odd(_save(_lab(picture), folder / "lab.tif"), tolerance=30),
        Odd(_save(picture, folder / "upside.bmp")),
        Odd(_save(Image.new("RGB", (1, 1), RED), folder / "one.png"), size=(1, 1), colours=(RED,) * 4),
        Odd(_save(Image.new("RGB", (1, 1), RED), folder / "one.jpg"), size=(1, 1), colours=(RED,) * 4),
        Odd(_save(four_colours((20_000, 2)), folder / "wide.png"), size=(20_000, 2)),
        Odd(_save(Image.new("RGB", (20_000, 1), BLUE), folder / "line.jpg"), size=(20_000, 1), colours=(BLUE,) * 4),
        Odd(_save(Image.new("RGB", (1, 20_000), BLUE), folder / "tall.png"), size=(1, 20_000), colours=(BLUE,) * 4),
        Odd(_save(picture, folder / "a name, ünusual#12+8 #row=1&column=x.png")),
        Odd(_exact_name(picture, folder / "x.tar#0+10")),
        Odd(_link(folder / "link.png", folder / "moving.png")),
        Odd(_in_tar(picture, folder / "shard.tar")),
    ]
    for orientation in range(2, 9):
        odd.append(Odd(_turned(picture, folder / f"turned-{orientation}.jpg", orientation)))
    return odd


def _bad(folder: Path) -> list[Odd]:
    rng = np.random.default_rng(7)
    noise = Image.fromarray(rng.integers(0, 255, (150, 200, 3), dtype=np.uint8))
    bad = []
    for suffix in ("JPEG", "PNG", "WEBP", "GIF", "TIFF"):
        data = _bytes(noise, suffix)
        bad.append(Odd(_write(folder / f"half.{suffix.lower()}", data[: len(data) // 2]), "truncated"))
        if suffix != "TIFF":
            bad.append(Odd(_write(folder / f"header.{suffix.lower()}", data[:20]), "truncated"))
    damaged = bytearray(_bytes(noise, "PNG"))
    damaged[len(damaged) // 2] ^= 0xFF
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    with open(folder / "two-gigabytes-of-nothing.jpg", "wb") as file:
        file.truncate(2 * 2**30)
    return [
        *bad,
        Odd(_write(folder / "damaged.png", bytes(damaged)), "truncated"),
        Odd(_write(folder / "empty.jpg", b""), "empty"),
        Odd(_write(folder / "page.jpg", b"<!doctype html><title>404 Not Found</title>"), "not_an_image"),
        Odd(_write(folder / "text.jpg", b"version https://git-lfs.github.com/spec/v1\n"), "not_an_image"),
        Odd(_write(folder / "drawing.png", b'<svg xmlns="http://www.w3.org/2000/svg"/>'), "not_an_image"),
        Odd(_write(folder / "zeros.jpg", bytes(4096)), "not_an_image"),
        Odd(_write(folder / "noise.jpg", b"\x01" + rng.bytes(4096)), "not_an_image"),
        Odd(_write(folder / "phone.jpg", b"\x00\x00\x00\x18ftypheic" + bytes(40)), "unsupported"),
        Odd(_write(folder / "print.jpg", _bytes(noise, "EPS")), "unsupported"),
        Odd(_write(folder / "icon.png", _bytes(noise, "ICO")), "unsupported"),
        Odd(_save(Image.new("1", (20_000, 20_000)), folder / "bomb.png"), "too_large"),
        Odd(_write(folder / "bomb.gif", _GIF_BOMB), "too_large"),
        Odd(str(folder / "two-gigabytes-of-nothing.jpg"), "too_large"),
        Odd(str(folder / "gone.jpg"), "missing"),
        Odd(str(folder / "empty.jpg" / "below-a-file.jpg"), "missing"),
        Odd(_link(folder / "nowhere.jpg", folder / "gone.jpg"), "missing"),
        Odd(_link(folder / "circle.jpg", folder / "circle.jpg"), "unreadable"),
        Odd(str(folder / ("long" * 99)), "unreadable"),
        Odd(str(folder / "null\0character.jpg"), "unreadable"),
        Odd("ftp://example.org/a.jpg", "unreadable"),
        Odd(str(folder / "folder.jpg"), "not_an_image"),
        Odd(str(folder / "pipe.jpg"), "not_an_image"),
        Odd(f"{folder / 'shard.tar'}#1024+999999", "truncated"),
        Odd(f"{folder / 'gone.tar'}#0+10", "missing"),
    ]


_GIF_BOMB = b"GIF89a" + struct.pack("<HHBBBBHHHHB", 1, 1, 0, 0, 0, 0x2C, 0, 0, 65_535, 65_535, 0) + b"\x02\x00;"


def _bytes(picture: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def _save(picture: Image.Image, path: Path, **options: object) -> str:
    picture.copy().save(path, **options)  # a copy: Pillow keeps a JPEG's settings on the picture
    return str(path)


def _exact_name(picture: Image.Image, path: Path) -> str:
    return _write(path, _bytes(picture, "PNG"))


def _link(path: Path, target: Path) -> str:
    path.symlink_to(target)
    return str(path)


def _in_tar(picture: Image.Image, path: Path) -> str:
    import tarfile

    data = _bytes(picture, "PNG")
    with tarfile.open(path, "w") as tar:
        for name in ("first.png", "second.png"):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    with tarfile.open(path) as tar:
        member = tar.getmember("second.png")
    return f"{path}#{member.offset_data}+{member.size}"


def _turned(picture: Image.Image, path: Path, orientation: int) -> str:
    """Stored as a camera does that was not held upright."""
    undo = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
    undo |= {6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}
    exif = Image.Exif()
    exif[0x0112] = orientation
    return _save(picture.transpose(Image.Transpose[undo[orientation]]), path, exif=exif, quality=95)


def _ycck(picture: Image.Image) -> bytes:
    """What Photoshop writes for print: luma and chroma of the inverted inks, and black; told by the Adobe marker."""
    cyan_magenta_yellow = Image.fromarray(255 - np.asarray(picture))
    planes = [*cyan_magenta_yellow.convert("YCbCr").split(), Image.new("L", picture.size, 255)]
    inverted = [Image.fromarray(255 - np.asarray(plane)) for plane in planes]  # Pillow inverts when it writes
    data = bytearray(_bytes(Image.merge("CMYK", inverted), "JPEG"))
    data[data.index(b"Adobe") + 11] = 2
    return bytes(data)


def _without_adobe(data: bytes) -> bytes:
    start = data.index(b"\xff\xee")
    return data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]


def _png16(values: np.ndarray) -> bytes:
    """Pillow writes no colours of 16 bits."""
    height, width, channels = values.shape
    lines = (values.astype(np.uint16) * 257).astype(">u2").reshape(height, -1)
    raw = b"".join(b"\x00" + line.tobytes() for line in lines)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _swapped_profile() -> bytes:
    """A profile in which red and blue change places: who applied it would see other colours."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
    profile[24:36] = bytes(12)  # the time it was made
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile)


def _lab(picture: Image.Image) -> Image.Image:
    transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(picture, transform)
    lab.info.pop("icc_profile")  # tells the time it was made
    return lab


def _luma(colour: tuple[int, int, int]) -> int:
    return Image.new("RGB", (1, 1), colour).convert("L").tobytes()[0]


def _half(gray: tuple[tuple[int, int, int], ...]) -> tuple[tuple[int, int, int], ...]:
    return WHITE[0], gray[1], WHITE[0], gray[3]


def _stretched(ramp: np.ndarray) -> np.ndarray:
    return ramp.astype(np.float32) * 40 - 1000


def _stretch(gray: tuple[tuple[int, int, int], ...]) -> tuple[tuple[int, int, int], ...]:
    low, high = min(gray)[0], max(gray)[0]
    return tuple((round((value - low) * 255 / (high - low)),) * 3 for value, *_ in gray)


def undecodable_name(folder: Path) -> str:
    """A picture whose name is not UTF-8, as an address that a table can hold."""
    path = os.fsencode(folder) + b"/caf\xe9.png"
    with open(path, "wb") as file:
        file.write(_bytes(four_colours(), "PNG"))
    return f"file://{folder}/caf%e9.png"
