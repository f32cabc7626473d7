"""Decodes images that clients upload, in a child process, one at a time.

What is made of them is what `decode.py` or `encode.py` makes, with stricter limits. An image that takes the child with
it, twice, is refused, and whoever comes next has a new child.
"""

from __future__ import annotations

import asyncio
import math
import signal
from dataclasses import dataclass

from PIL import Image

from vigc.platform.images.decode import MAX_BYTES_PER_PIXEL, Decoded, decode_bytes, perceptual_hash
from vigc.platform.images.encode import encode_bytes
from vigc.platform.images.isolation import Child, ChildDied
from vigc.platform.records import ImageForm


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """The limits of one image."""

    max_bytes: int = 20 * 2**20
    max_pixels: int = 50_000_000  # by its header alone
    time_limit_s: float = 10.0  # for decoding it


class _Decoding:
    """The handler in the child."""

    def __init__(self, form: ImageForm, limits: UploadLimits) -> None:
        self._decode = encode_bytes if form.side is None else decode_bytes
        self._side = form.side or math.isqrt(form.max_pixels or 1)
        self._limits = limits
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, whatever a decoder is doing
        perceptual_hash(Image.new("RGB", (32, 32)))  # BLAS takes its buffers now; they are not the image's memory

    def __call__(self, data: bytes) -> Decoded:
        signal.setitimer(signal.ITIMER_REAL, self._limits.time_limit_s)
        try:
            return self._decode(data, self._side, self._limits.max_pixels)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


class Uploads:
    """Decodes bytes for one event loop.

    Args:
        form: of the pixels in `Decoded`.
    """

    def __init__(self, form: ImageForm, limits: UploadLimits) -> None:
        memory_bytes = 2 * limits.max_bytes + MAX_BYTES_PER_PIXEL * limits.max_pixels
        self._child = Child(_Decoding, (form, limits), memory_bytes=memory_bytes)
        self._child.start()
        self._limits = limits
        self._turn = asyncio.Lock()  # so that a death is the fault of one image

    async def decode(self, data: bytes) -> Decoded:
        """What `decode_batch` or `encode_batch` makes of a file with these bytes."""
        limits = self._limits
        if not data:
            return _refused("empty", "the image has 0 bytes")
        if len(data) > limits.max_bytes:
            return _refused("too_large", f"{len(data)} bytes; at most {limits.max_bytes} are taken")
        async with self._turn:
            try:
                return await self._decoded(data)
            except ChildDied:
                pass  # an earlier image may have done it whose sender did not wait
            try:
                return await self._decoded(data)
            except ChildDied as death:
                if death.exit_code is None:  # it could not be started, which no image is to blame for
                    raise
                if death.exit_code == -signal.SIGALRM:
                    return _refused("too_slow", f"decoding it took longer than {limits.time_limit_s:g} s, twice")
                return _refused("crashed", f"decoding it broke off twice: {death}")

    async def _decoded(self, data: bytes) -> Decoded:
        decoded: Decoded = await self._child.acall(data)
        return decoded

    def stop(self) -> None:
        self._child.stop()


def _refused(kind: str, message: str) -> Decoded:
    return Decoded(error_kind=kind, error_message=message)
