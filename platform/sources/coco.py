"""Images with a COCO annotation file: objects with boxes, captions, or both.

Reads the `images`, `annotations` and `categories` lists; `file_name` is a path below the images' folder and becomes
the `image_id`. The file is checked whole before the first record comes out, so a run never starts on annotations that
break in the middle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vigc.platform.records import ImageRecord, InputError, ObjectBox


class CocoSource:
    name = "coco"

    def __init__(self, annotations: Path, images: Path) -> None:
        """Raises InputError when the annotation file cannot be read or contradicts itself."""
        self._path = annotations.absolute()
        self._root = images.absolute()
        data = self._read()
        self._images = self._index_images(data["images"])
        categories = {_id(entry, "id"): entry.get("name") for entry in self._entries(data, "categories")}
        self._objects: dict[Any, list[ObjectBox]] = {}
        self._captions: dict[Any, list[str]] = {}
        for index, entry in enumerate(self._entries(data, "annotations")):
            self._add(f"annotations[{index}]", entry, categories)
        self._has_objects = bool(self._objects) or bool(categories)

    def describe(self) -> str:
        return f"coco {self._path}, images in {self._root}"

    def __iter__(self) -> Iterator[ImageRecord]:
        for key, image in self._images.items():
            name = image["file_name"]
            yield ImageRecord(
                image_id=name,
                uri=str(self._root / name),
                width=image.get("width"),
                height=image.get("height"),
                objects=self._objects.get(key, []) if self._has_objects else None,
                captions=self._captions.get(key),
            )

    def _read(self) -> dict[str, Any]:
        try:
            data = json.loads(self._path.read_bytes())
        except FileNotFoundError as error:
            raise InputError(f"{self._path}: no such annotation file. Check the path.") from error
        except OSError as error:
            raise InputError(f"{self._path}: cannot read the annotation file ({error.strerror}).") from error
        except ValueError as error:  # a JSONDecodeError says line and column, a UnicodeDecodeError the byte
            raise InputError(f"{self._path}: not a JSON file ({error}). Is the file complete?") from error
        if not isinstance(data, dict) or "images" not in data:
            raise InputError(f"{self._path}: no 'images' list, so not COCO. --source folder reads images without it.")
        return {"images": self._entries(data, "images"), **{k: data.get(k, []) for k in ("annotations", "categories")}}

    def _entries(self, data: dict[str, Any], name: str) -> list[dict[str, Any]]:
        entries = data[name]
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise InputError(f"{self._path}: '{name}' is not a list of objects, so not a COCO file. Fix the file.")
        return entries

    def _index_images(self, entries: list[dict[str, Any]]) -> dict[Any, dict[str, Any]]:
        images: dict[Any, dict[str, Any]] = {}
        place_of: dict[tuple[str, Any], str] = {}
        for index, image in enumerate(entries):
            place = f"images[{index}]"
            key, name = _id(image, "id"), image.get("file_name")
            if key is None or not isinstance(name, str) or not name or not _is_text(name):
                raise self._fault(place, "needs an 'id' and a 'file_name'")
            if any(image.get(side) is not None and not isinstance(image[side], int) for side in ("width", "height")):
                raise self._fault(place, "has a 'width' or 'height' that is not a whole number")
            for what, value in (("file_name", name), ("id", key)):
                if (first := place_of.setdefault((what, value), place)) != place:
                    raise self._fault(place, f"has the same {what} {value!r} as {first}")
            images[key] = image
        return images

    def _add(self, place: str, entry: dict[str, Any], categories: dict[Any, Any]) -> None:
        key = _id(entry, "image_id")
        if key not in self._images:
            raise self._fault(place, f"names image_id {entry.get('image_id')!r}, which is in no image entry")
        if isinstance(entry.get("caption"), str):
            self._captions.setdefault(key, []).append(entry["caption"])
            return
        category = categories.get(_id(entry, "category_id"))
        if not isinstance(category, str):
            raise self._fault(place, f"names category_id {entry.get('category_id')!r}, which is in no category entry")
        box = entry.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(side, int | float) for side in box):
            raise self._fault(place, f"has the bbox {box!r} instead of [x, y, width, height]")
        found = ObjectBox(category, [float(side) for side in box], bool(entry.get("iscrowd", 0)))
        self._objects.setdefault(key, []).append(found)

    def _fault(self, place: str, what: str) -> InputError:
        return InputError(f"{self._path}: {place} {what}. Fix the file.")


def _id(entry: dict[str, Any], name: str) -> int | str | None:
    """COCO ids are whole numbers; some tools write strings. Anything else is no id."""
    value = entry.get(name)
    return value if isinstance(value, int | str) else None


def _is_text(name: str) -> bool:
    """JSON can hold lone surrogates ("\\ud800"), which no file name and no Arrow string can."""
    return not any("\ud800" <= character <= "\udfff" for character in name)
