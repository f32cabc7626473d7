"""Annotated images for the tests of the objects in texts."""

from __future__ import annotations

from collections.abc import Sequence

from vigc.platform.records import ImageRecord, ObjectBox


def image(
    objects: Sequence[str] | None, captions: Sequence[str] | None = None, crowds: Sequence[str] = ()
) -> ImageRecord:
    """An image with one box for each of these categories; None: nobody annotated it."""
    boxes = None
    if objects is not None:
        boxes = [ObjectBox(name, [0.0, 0.0, 8.0, 8.0], name in crowds) for name in (*objects, *crowds)]
    return ImageRecord("one.jpg", "/nowhere/one.jpg", 64, 48, boxes, None if captions is None else list(captions))
