"""Reads annotations of an image: sizes, objects and captions, as JSON or CSV give them.

Each function takes a value and returns it in the form of ImageRecord; what does not fit is a ValueError whose text says
what would.
"""

from __future__ import annotations

import json
from contextlib import suppress
from math import isfinite
from typing import Any

from vigc.platform.records import ObjectBox
from vigc.platform.sources.addresses import is_text


def side(value: Any) -> int | None:
    """A width or height: a whole number, also as 640.0, or its digits; nothing is unknown."""
    if value is None or value == "":
        return None
    text = value.strip().removesuffix(".0") if isinstance(value, str) else ""
    if text.isdecimal():
        return int(text)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"{value!r} is not a whole number of pixels")


def objects(value: Any) -> list[ObjectBox] | None:
    """A list of {"category", "bbox", "is_crowd"}, or its JSON text; nothing is unknown, [] is none."""
    value = _from_json(value, 'like [{"category": "dog", "bbox": [x, y, width, height]}]')
    if value is None:
        return None
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is not a list of objects")
    return [_object(number, entry) for number, entry in enumerate(value)]


def captions(value: Any) -> list[str] | None:
    """A list of texts, or one text; nothing is unknown."""
    if value is None or value == "":
        return None
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(text, str) and is_text(text) for text in found):
        raise ValueError(f"{value!r} is neither a text nor a list of texts")
    return found


def captions_of_cell(value: Any) -> list[str] | None:
    """The same in a table of texts, where a list is written as JSON. "[Hot Item] Cup" is one caption."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(ValueError):  # no JSON: one text that begins with a bracket
            value = json.loads(value)
    return captions(value)


def _object(number: int, entry: Any) -> ObjectBox:
    if not isinstance(entry, dict):
        raise ValueError(f"object {number} is {entry!r} instead of an object with category and bbox")
    category, box, is_crowd = entry.get("category"), entry.get("bbox"), entry.get("is_crowd", entry.get("iscrowd", 0))
    if not isinstance(category, str) or not is_text(category):
        raise ValueError(f"object {number} has the category {category!r} instead of a text")
    if (
        not isinstance(box, list)
        or len(box) != 4
        or not all(type(one) in (int, float) and isfinite(one) for one in box)
    ):
        raise ValueError(f"object {number} has the bbox {box!r} instead of [x, y, width, height]")
    if is_crowd not in (0, 1):
        raise ValueError(f"object {number} has is_crowd {is_crowd!r} instead of true or false")
    return ObjectBox(category, [float(one) for one in box], bool(is_crowd))


def _from_json(value: Any, wanted: str) -> Any:
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError(f"{value[:80]!r} is not JSON {wanted} ({error})") from error
