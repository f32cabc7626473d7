"""Pictures that strangers send."""

from __future__ import annotations

import asyncio
import io

import pytest
from PIL import Image

from vigc.platform.images.decode import decode_bytes
from vigc.platform.images.uploads import UploadLimits, Uploads
from vigc.platform.records import ImageForm

SIZE = 32
LIMITS = UploadLimits(max_bytes=200_000, max_pixels=1_000_000, time_limit_s=0.5)


def picture(width=64, height=48, form="JPEG"):
    file = io.BytesIO()
    Image.radial_gradient("L").resize((width, height)).convert("RGB").save(file, form)
    return file.getvalue()


@pytest.fixture(scope="module")
def uploads():
    made = Uploads(ImageForm(side=SIZE), LIMITS)
    yield made
    made.stop()


def decoded(uploads, *pictures):
    async def all_of_them():
        return await asyncio.gather(*map(uploads.decode, pictures))

    return asyncio.run(all_of_them())


def test_a_picture_is_decoded_as_a_run_decodes_it(uploads):
    data = picture()
    assert decoded(uploads, data) == [decode_bytes(data, SIZE, LIMITS.max_pixels)]


def test_what_is_too_large_or_no_picture_is_refused_with_the_reason(uploads):
    large, bomb = b"\xff" * 200_001, picture(1100, 1000, "PNG")
    kinds = [found.error_kind for found in decoded(uploads, b"", large, bomb, b"hello", picture()[:200])]
    assert kinds == ["empty", "too_large", "too_large", "not_an_image", "truncated"]


class Killer:
    """Decodes; a picture that begins like this one ends the process or never ends itself."""

    def __init__(self, image_size, limits):
        from vigc.platform.images.uploads import _Decoding

        self.decoding = _Decoding(image_size, limits)

    def __call__(self, data):
        if data.startswith(b"kill"):
            import os

            os._exit(7)
        return self.decoding(data)


def test_a_picture_that_kills_its_decoder_is_refused_and_the_others_are_not(monkeypatch):
    monkeypatch.setattr("vigc.platform.images.uploads._Decoding", Killer)
    uploads = Uploads(ImageForm(side=SIZE), LIMITS)
    monkeypatch.undo()
    try:
        found = decoded(uploads, picture(), b"kill", picture(60), b"kill", picture(50))
        assert [one.error_kind for one in found] == [None, "crashed", None, "crashed", None]
    finally:
        uploads.stop()
