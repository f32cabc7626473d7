"""Decoders with the three diseases of real ones, for marked pictures: JPEGs with a comment."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

from vigc.platform.images.decode import Decoded, decode_bytes


def decode_or_suffer(data: bytes, image_size: int, max_pixels: int) -> Decoded:
    if b"POISON crash" in data:
        ctypes.string_at(0)
    if b"POISON memory" in data:
        held = []
        while True:
            held.append(bytearray(64 * 2**20))
    if b"POISON sleep" in data:
        time.sleep(3600)
    return decode_bytes(data, image_size, max_pixels)


def decode_or_die_once(data: bytes, image_size: int, max_pixels: int) -> Decoded:
    """A comment names the file that remembers the first death."""
    if b"POISON once " in data:
        marker = Path(data.split(b"POISON once ")[1].split(b";")[0].decode())
        if not marker.exists():
            marker.touch()
            os._exit(1)
    return decode_bytes(data, image_size, max_pixels)


def decode_and_tell(data: bytes, image_size: int, max_pixels: int) -> Decoded:
    """The process and its greatest size so far, in the place of the hash."""
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    decoded = decode_bytes(data, image_size, max_pixels)
    return Decoded(decoded.width, decoded.height, decoded.pixels, phash=f"{os.getpid()} {peak.split()[1]}")
