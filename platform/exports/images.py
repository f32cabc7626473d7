"""The images of examples, for the formats that hold them: the bytes as they are at the source, never encoded anew.

They are fetched ahead, some at a time. An example whose image cannot be had is left out and counted by its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice

from vigc.platform.exports.examples import Example
from vigc.platform.images.fetch import fetch_many
from vigc.platform.images.refused import Refused

AT_ONCE = 64

# First bytes -> (ending, media type).
_TYPES = {
    b"\xff\xd8\xff": ("jpg", "image/jpeg"),
    b"\x89PNG": ("png", "image/png"),
    b"GIF8": ("gif", "image/gif"),
    b"BM": ("bmp", "image/bmp"),
    b"II*\x00": ("tif", "image/tiff"),
    b"MM\x00*": ("tif", "image/tiff"),
    b"RIFF": ("webp", "image/webp"),
}


@dataclass(frozen=True, slots=True)
class ImageFile:
    data: bytes
    ending: str  # of a file name, without the dot
    media_type: str


def with_images(examples: Iterable[Example], left_out: Counter[str]) -> Iterator[tuple[Example, ImageFile]]:
    """Every example with its image, which is fetched once for neighbours that share it."""
    stream = iter(examples)
    while some := list(islice(stream, AT_ONCE)):
        groups = [list(group) for _, group in groupby(some, key=lambda example: example.uri)]
        found = fetch_many([group[0].uri for group in groups])
        for group, data in zip(groups, found, strict=True):
            if isinstance(data, Refused):
                left_out[f"without their image: {data.error.kind}"] += len(group)
                continue
            image_file = _image_file(data)
            yield from ((example, image_file) for example in group)


def _image_file(data: bytes) -> ImageFile:
    ending, media_type = next(
        (kind for magic, kind in _TYPES.items() if data.startswith(magic)), ("jpg", "application/octet-stream")
    )
    return ImageFile(data, ending, media_type)
