"""Images with COCO annotation files: objects with boxes, captions, or both; Objects365 v1 and v2 among them.

Reads the `images`, `annotations` and `categories` lists, in whatever order they come; `file_name` is a path below the
images' folder and becomes the `image_id`. Several files about the same images are joined by image id. All of it is
checked before the first record comes out, so a run never starts on annotations that break in the middle. Images are
held as columns and annotations on disk (`external_sort.py`), so that 25 million boxes are no different from ten.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from math import isfinite
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vigc.platform.records import RENDERED_SCENES, InputError
from vigc.platform.schema import MANIFEST
from vigc.platform.sources import annotated, objects365, written_paths
from vigc.platform.sources.addresses import COMPLETE, absolute, is_text, is_web, open_stream, readable, resolved
from vigc.platform.sources.base import RECORDS_PER_TABLE, Source, first_repeated
from vigc.platform.sources.external_sort import IMAGES_PER_GROUP, BatchFile, SortedByImage
from vigc.platform.sources.json_stream import JsonFault, top_lists
from vigc.platform.storage import open_folder

ROWS_PER_BATCH = 100_000
MAX_ID = 2**62

BOXES = pa.schema(
    [
        *(pa.field(name, pa.int64()) for name in ("image", "entry", "category")),
        pa.field("box", pa.list_(pa.float64(), 4)),
        pa.field("is_crowd", pa.int8()),
    ]
)
CAPTIONS = pa.schema([("image", pa.int64()), ("entry", pa.int64()), ("caption", pa.string())])


class CocoSource(Source):
    name = "coco"

    def __init__(self, annotations: Sequence[str], images: str) -> None:
        """Raises InputError when an annotation file cannot be read or contradicts itself or another one."""
        self._paths = [absolute(path) for path in annotations]
        self._root = absolute(images)
        self.num_skipped = 0  # annotated images that were never published (Objects365)
        self._keys = _Keys()
        self._images = _IMAGES.empty_table()
        self._has_objects: NDArray[np.bool_] = np.zeros(0, bool)
        self._categories: dict[str, int] = {}
        self._are_scenes = True
        self._boxes, self._captions = SortedByImage(BOXES), SortedByImage(CAPTIONS)
        for number, path in enumerate(self._paths):
            self._join(_CocoFile(path, self._keys), number)
        names = self._images["name"].combine_chunks()
        self._names = names if is_web(self._root) else self._as_on_disk(names)
        self._uris = resolved(self._names, self._root)
        self._names = _as_ids(self._names, self._root)

    def describe(self) -> str:
        skipped = f"; {self.num_skipped} images left out that were never published" if self.num_skipped else ""
        return f"coco {', '.join(self._paths)}, images in {self._root}{skipped}"

    def num_images(self) -> int:
        return len(self._names)

    def categories(self) -> list[str] | None:
        return list(self._categories) if self._has_objects.any() else None

    def are_scenes(self) -> bool:
        return self._are_scenes

    def place(self, index: int) -> str:
        image = self._images.slice(index, 1)
        return f"{self._paths[image['file'][0].as_py()]}: images[{image['entry'][0].as_py()}]"

    def tables(self) -> Iterator[pa.Table]:
        categories = pa.array(list(self._categories), pa.string())
        for start in range(0, self.num_images(), IMAGES_PER_GROUP):
            names = self._names.slice(start, IMAGES_PER_GROUP)
            images = self._images.slice(start, IMAGES_PER_GROUP)
            table = pa.table(
                {
                    "image_id": names,
                    "uri": self._uris.slice(start, IMAGES_PER_GROUP),
                    "width": images["width"],
                    "height": images["height"],
                    "objects": self._objects_of(start, len(names), categories),
                    "captions": self._captions_of(start, len(names)),
                },
                MANIFEST,
            )
            for first in range(0, len(names), RECORDS_PER_TABLE):
                yield table.slice(first, RECORDS_PER_TABLE)

    def _as_on_disk(self, names: pa.Array) -> pa.Array:
        with readable(self._root):
            folder = open_folder(self._root)
            found = objects365.as_on_disk(names, folder)
            if found is names:
                found = written_paths.as_on_disk(names, folder)
        return names if found is not names and first_repeated(found) else found

    def _objects_of(self, start: int, num: int, categories: pa.Array) -> pa.Array:
        offsets, rows = self._boxes.group(start // IMAGES_PER_GROUP, num)
        columns = [
            categories.take(rows["category"].combine_chunks()),
            rows["box"].combine_chunks().cast(pa.list_(pa.float64())),
            rows["is_crowd"].combine_chunks().cast(pa.bool_()),
        ]
        values = pa.StructArray.from_arrays(columns, ["category", "bbox", "is_crowd"])
        unknown = pa.array(~self._has_objects[start : start + num])
        return pa.ListArray.from_arrays(offsets, values, mask=unknown)

    def _captions_of(self, start: int, num: int) -> pa.Array:
        offsets, rows = self._captions.group(start // IMAGES_PER_GROUP, num)
        unknown = pa.array(np.diff(offsets.to_numpy()) == 0)
        return pa.ListArray.from_arrays(offsets, rows["caption"].combine_chunks(), mask=unknown)

    def _join(self, file: _CocoFile, number: int) -> None:
        """Takes in what one file says."""
        images = file.images
        num = len(images)
        places = pa.table({"file": pa.array(np.full(num, number)), "entry": pa.array(np.arange(num))})
        for column in places.column_names:
            images = images.append_column(column, places[column])
        published = objects365.is_published(images["name"].combine_chunks())
        known = self._same_images(images) if len(self._images) else np.full(num, -1)
        new = published.to_numpy(zero_copy_only=False) & (known < 0)
        positions = np.where(new, len(self._images) + np.cumsum(new) - 1, known)
        self._are_scenes &= file.are_scenes or not new.any()
        self.num_skipped += num - int(pc.sum(published).as_py() or 0)
        images = images if new.all() else images.filter(pa.array(new))
        self._images = pa.concat_tables([self._images, images.cast(_IMAGES)]).combine_chunks()
        self._require_different_names()
        self._has_objects = np.concatenate([self._has_objects, np.zeros(int(new.sum()), bool)])
        if file.has_objects:
            self._has_objects[positions[positions >= 0]] = True
        self._keep(file, positions)

    def _same_images(self, images: pa.Table) -> NDArray[np.int64]:
        """Where the images stand already, by their ids; -1: nowhere."""
        known = _Index(self._images["key"].to_numpy()).find(images["key"].to_numpy())
        again = np.flatnonzero(known >= 0)
        before = self._images["name"].take(pa.array(known[again]))
        differs = pc.not_equal(images["name"].take(pa.array(again)), before).to_numpy()
        if differs.any():
            index = int(np.argmax(differs))
            image, first = images.slice(int(again[index]), 1).to_pylist()[0], self.place(int(known[again[index]]))
            raise _fault(
                self._paths[image["file"]],
                f"images[{image['entry']}]",
                f"has the file_name {image['name']!r}, but the image with this id is {before[index].as_py()!r} "
                f"at {first}",
            )
        return known

    def _require_different_names(self) -> None:
        if (twice := first_repeated(self._images["name"].combine_chunks())) is None:
            return
        first, second = twice
        name = self._images["name"][second].as_py()
        path, _, place = self.place(second).rpartition(": ")
        where = self.place(first).removeprefix(f"{path}: ")
        raise _fault(path, place, f"has the same file_name {name!r} as {where}")

    def _keep(self, file: _CocoFile, positions: NDArray[np.int64]) -> None:
        """Puts a file's annotations where their images stand."""
        images = _Index(file.images["key"].to_numpy())
        categories = _Index(np.array(list(file.categories), np.int64))
        category_of = np.array(
            [
                -1 if name is None else self._categories.setdefault(name, len(self._categories))
                for name in file.categories.values()
            ],
            np.int64,
        )
        for unsorted, grouped in ((file.boxes, self._boxes), (file.captions, self._captions)):
            for batch in unsorted.batches():
                local = images.find(batch["image"].to_numpy())
                if (local < 0).any():
                    self._refuse(file, batch, "image", local, "names image_id {!r}, which is in no image entry")
                if unsorted is file.boxes:
                    found = categories.find(batch["category"].to_numpy())
                    names = np.where(found >= 0, category_of[found], -1) if len(category_of) else found
                    if (names < 0).any():
                        what = "names category_id {!r}, which is in no category entry"
                        self._refuse(file, batch, "category", names, what)
                    batch = batch.set_column(2, "category", pa.array(names))  # noqa: PLW2901
                grouped.add(batch, positions[local])

    def _refuse(self, file: _CocoFile, batch: pa.RecordBatch, column: str, found: NDArray[np.int64], what: str) -> None:
        row = int(np.argmax(found < 0))
        value = self._keys.original(batch[column][row].as_py())
        raise _fault(file.path, f"annotations[{batch['entry'][row].as_py()}]", what.format(value))


_READ_OF_IMAGES = pa.schema([("key", pa.int64()), ("name", pa.string()), ("width", pa.int64()), ("height", pa.int64())])
# And where each stands: the number of its file, and its number there.
_IMAGES = pa.schema([*_READ_OF_IMAGES, pa.field("file", pa.int64()), pa.field("entry", pa.int64())])


class _Keys:
    """Ids as numbers: COCO's are whole numbers and stand for themselves, the texts of some tools get numbers."""

    def __init__(self) -> None:
        self._odd: dict[int | str, int] = {}

    def number(self, value: Any) -> int | None:
        """The id as a number; None for what is no id."""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is int and -MAX_ID < value < MAX_ID:
            return value
        if isinstance(value, int | str) and not isinstance(value, bool):
            return self._odd.setdefault(value, -MAX_ID - len(self._odd))
        return None

    def original(self, number: int) -> int | str:
        return next((value for value, odd in self._odd.items() if odd == number), number)


class _CocoFile:
    """One annotation file, read: images as columns, annotations on disk in the file's order."""

    def __init__(self, path: str, keys: _Keys) -> None:
        self.path = path
        self.categories: dict[int, str | None] = {}
        self.are_scenes = False
        self.boxes, self.captions = BatchFile(BOXES), BatchFile(CAPTIONS)
        self._keys = keys
        self._batches: list[pa.RecordBatch] = []
        self._image_rows: list[tuple[int, str, int | None, int | None]] = []
        self._box_rows = _BoxRows()
        self._caption_rows: list[tuple[int, int, str]] = []
        self._read()
        self.images = pa.Table.from_batches(self._batches, schema=_READ_OF_IMAGES)
        self.has_objects = bool(self.boxes.num_rows or self.categories)
        self._require_different_ids()

    def _read(self) -> None:
        add = {"images": self._add_image, "annotations": self._add_annotation, "categories": self._add_category}
        seen: set[str] = set()
        try:
            with readable(self.path), open_stream(self.path) as file:
                for name, index, entry in top_lists(file):
                    if name == "info" and isinstance(entry, dict):
                        self.are_scenes = entry.get("description") == RENDERED_SCENES
                    if name not in add:
                        continue
                    seen.add(name)
                    if index < 0 and entry != []:
                        raise self._no_list(name)
                    if index >= 0:
                        if not isinstance(entry, dict):
                            raise self._no_list(name)
                        add[name](index, entry)
        except (JsonFault, UnicodeDecodeError) as error:
            raise InputError(f"{self.path}: not a JSON file ({error}). Is the file complete?") from error
        if "images" not in seen:
            raise InputError(f"{self.path}: no 'images' list, so not COCO. --source folder reads images without it.")
        self._flush()

    def _add_image(self, index: int, image: dict[str, Any]) -> None:
        key, name = self._keys.number(image.get("id")), image.get("file_name") or _of_url(image.get("coco_url"))
        if key is None or not isinstance(name, str) or not name or not is_text(name):
            raise _fault(self.path, f"images[{index}]", "needs an 'id' and a 'file_name'")
        try:
            width, height = (annotated.side(image.get(name)) for name in ("width", "height"))
        except ValueError as error:
            raise _fault(self.path, f"images[{index}]", f"has a width or height that cannot be: {error}") from error
        if any(side is not None and abs(side) >= MAX_ID for side in (width, height)):
            raise _fault(self.path, f"images[{index}]", "has a width or height beyond all images")
        self._image_rows.append((key, name, width, height))
        if len(self._image_rows) >= ROWS_PER_BATCH:
            self._flush()

    def _add_category(self, index: int, entry: dict[str, Any]) -> None:
        key, name = self._keys.number(entry.get("id")), entry.get("name")
        if key is None:
            raise _fault(self.path, f"categories[{index}]", "needs an 'id'")
        if key in self.categories:
            first = list(self.categories).index(key)
            raise _fault(
                self.path, f"categories[{index}]", f"has the same id {entry.get('id')!r} as categories[{first}]"
            )
        self.categories[key] = objects365.category_name(name) if isinstance(name, str) and is_text(name) else None

    def _add_annotation(self, index: int, entry: dict[str, Any]) -> None:
        image = self._keys.number(entry.get("image_id"))
        if image is None:
            what = f"names image_id {entry.get('image_id')!r}, which is in no image entry"
            raise _fault(self.path, f"annotations[{index}]", what)
        caption = entry.get("caption")
        if isinstance(caption, str):
            if not is_text(caption):
                raise _fault(self.path, f"annotations[{index}]", "has a caption that is no text (a lone surrogate)")
            self._caption_rows.append((image, index, caption))
            if len(self._caption_rows) >= ROWS_PER_BATCH:
                self._flush()
            return
        if "segments_info" in entry:
            raise _fault(self.path, f"annotations[{index}]", "is of a panoptic file, which is not read; give instances")
        category = self._keys.number(entry.get("category_id"))
        if category is None and entry.get("category_id") is None:
            raise _fault(self.path, f"annotations[{index}]", "has neither a caption nor a category_id")
        if category is None:
            what = f"names category_id {entry.get('category_id')!r}, which is in no category entry"
            raise _fault(self.path, f"annotations[{index}]", what)
        box = entry.get("bbox")
        try:
            if not isinstance(box, list) or len(box) != 4 or not isfinite(sum(box)):
                raise TypeError
            self._box_rows.boxes.extend(box)
        except (TypeError, OverflowError) as error:
            what = f"has the bbox {box!r} instead of [x, y, width, height]"
            raise _fault(self.path, f"annotations[{index}]", what) from error
        self._box_rows.add(image, index, category, bool(entry.get("iscrowd", 0)))
        if len(self._box_rows.images) >= ROWS_PER_BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._image_rows:
            self._batches.append(_columns(self._image_rows, _READ_OF_IMAGES))
            self._image_rows.clear()
        if self._box_rows.images:
            self.boxes.add(self._box_rows.batch())
            self._box_rows = _BoxRows()
        if self._caption_rows:
            self.captions.add(_columns(self._caption_rows, CAPTIONS))
            self._caption_rows.clear()

    def _require_different_ids(self) -> None:
        if (twice := first_repeated(self.images["key"].combine_chunks())) is not None:
            first, second = twice
            key = self._keys.original(self.images["key"][second].as_py())
            raise _fault(self.path, f"images[{second}]", f"has the same id {key!r} as images[{first}]")

    def _no_list(self, name: str) -> InputError:
        return InputError(f"{self.path}: '{name}' is not a list of objects, so not a COCO file. Fix the file.")


class _BoxRows:
    """Boxes on their way to disk, 48 bytes each."""

    def __init__(self) -> None:
        self.images, self.entries, self.categories = array("q"), array("q"), array("q")
        self.boxes, self.are_crowds = array("d"), array("b")

    def add(self, image: int, entry: int, category: int, is_crowd: bool) -> None:
        self.images.append(image)
        self.entries.append(entry)
        self.categories.append(category)
        self.are_crowds.append(is_crowd)

    def batch(self) -> pa.RecordBatch:
        ids = [pa.array(np.array(column)) for column in (self.images, self.entries, self.categories)]
        boxes = pa.FixedSizeListArray.from_arrays(pa.array(np.array(self.boxes)), 4)
        return pa.record_batch([*ids, boxes, pa.array(np.array(self.are_crowds))], schema=BOXES)


class _Index:
    """Finds where keys stand among the ones it was given."""

    def __init__(self, among: NDArray[np.int64]) -> None:
        self._order = np.argsort(among, kind="stable")
        self._sorted = among[self._order]

    def find(self, wanted: NDArray[np.int64]) -> NDArray[np.int64]:
        """The positions of the keys; -1 for one that is not there."""
        if not len(self._sorted):
            return np.full(len(wanted), -1)
        found = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
        positions: NDArray[np.int64] = np.where(self._sorted[found] == wanted, self._order[found], -1)
        return positions


def _columns(rows: list[Any], schema: pa.Schema) -> pa.RecordBatch:
    arrays = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), schema, strict=True)]
    return pa.record_batch(arrays, schema=schema)


def _of_url(url: Any) -> str | None:
    """A file's name in files that give addresses instead, as LVIS does: its last two parts."""
    return "/".join(url.split("/")[-2:]) if isinstance(url, str) and is_web(url) else None


def _as_ids(names: pa.Array, root: str) -> pa.Array:
    """What stands below the root without it; other complete paths without their beginning."""
    below = f"{root.rstrip('/')}/"
    names = pc.if_else(pc.starts_with(names, below), pc.utf8_slice_codeunits(names, len(below)), names)
    return pc.replace_substring_regex(names, COMPLETE, "")


def _fault(path: str, place: str, what: str) -> InputError:
    return InputError(f"{path}: {place} {what}. Fix the file.")
