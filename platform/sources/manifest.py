"""Tables of images: Parquet (a file or a folder of them), CSV, or JSON Lines.

Columns: `uri` (relative to the manifest's folder, absolute, or an address), and where known `image_id` (else the uri
without its scheme), `width`, `height`, `objects` (list of category, bbox, is_crowd) and `captions` (list, or one text).
CSV holds the lists as JSON text. Other columns are passed over. Parquet is checked and converted by column, millions of
rows a second; the two text formats row by row.
"""

from __future__ import annotations

import csv
import io
import json
from abc import abstractmethod
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vigc.platform.records import RENDERED_SCENES, ImageRecord, InputError
from vigc.platform.schema import MANIFEST
from vigc.platform.sources import annotated
from vigc.platform.sources.addresses import (
    absolute,
    is_text,
    open_stream,
    readable,
    resolved,
    split,
    suffix,
    without_scheme,
)
from vigc.platform.sources.base import RECORDS_PER_TABLE, Source, categories_of, in_tables
from vigc.platform.sources.parquet_files import ParquetFiles

TEXT_SUFFIXES = (".csv", ".jsonl", ".jsonlines", ".ndjson")
SCENES_MARK = {b"vigc.images": RENDERED_SCENES.encode()}  # metadata of Parquet files that `vigc ingest` made of scenes
MAX_FIELD_CHARACTERS = 64 * 2**20

_READERS: dict[str, Callable[[Any], Any]] = {
    "width": annotated.side,
    "height": annotated.side,
    "objects": annotated.objects,
    "captions": annotated.captions,
}


def open_manifest(place: str) -> Source:
    """Raises InputError when it is none, or has no column `uri`."""
    kind = suffix(place)
    if kind == ".csv":
        return _CsvManifest(place)
    return _JsonLinesManifest(place) if kind in TEXT_SUFFIXES else ParquetManifest(ParquetFiles(place))


class ParquetManifest(Source):
    name = "manifest"

    def __init__(self, files: ParquetFiles) -> None:
        self._files = files
        for name in files.names:
            self._check_columns(name)

    def describe(self) -> str:
        return f"manifest {self._files.place}, Parquet"

    def num_images(self) -> int:
        return self._files.num_rows

    def place(self, index: int) -> str:
        return self._files.place_of(index)

    def categories(self) -> list[str] | None:
        """The categories of all rows: one column is soon read."""
        found: set[str] = set()
        is_annotated = False
        for name in self._files.names:
            if "objects" not in self._files.schema(name).names:
                continue
            first = 0
            for batch in self._files.batches(name, ["objects"], 10 * RECORDS_PER_TABLE):
                objects = self._cast(name, first, "objects", batch["objects"])
                is_annotated |= objects.null_count < len(objects)
                found.update(pc.unique(pc.struct_field(objects.flatten(), "category")).drop_null().to_pylist())
                first += batch.num_rows
        return sorted(found) if is_annotated else None

    def are_scenes(self) -> bool:
        return all(self._files.schema(name).metadata == SCENES_MARK for name in self._files.names)

    def tables(self) -> Iterator[pa.Table]:
        for name in self._files.names:
            wanted = [column for column in self._files.schema(name).names if column in MANIFEST.names]
            first = 0
            for batch in self._files.batches(name, wanted, RECORDS_PER_TABLE):
                yield self._converted(name, first, pa.table(batch))
                first += batch.num_rows

    def _check_columns(self, name: str) -> None:
        schema = self._files.schema(name)
        if "uri" not in schema.names:
            raise InputError(
                f"{self._files.address(name)}: no column 'uri', only {', '.join(schema.names)}. "
                "Name the column with the images' paths or addresses so."
            )

    def _converted(self, name: str, first: int, table: pa.Table) -> pa.Table:
        """With the schema MANIFEST; `first` is the number of the table's first row in its file."""
        columns: dict[str, pa.Array] = {}
        for column in table.column_names:
            values = table[column].combine_chunks()
            columns[column] = self._cast(name, first, column, values)
        for column in ("uri", "image_id"):
            if column in columns and (columns[column].null_count or pc.any(pc.equal(columns[column], "")).as_py()):
                row = int(np.argmax(pc.fill_null(pc.equal(columns[column], ""), True).to_numpy(zero_copy_only=False)))
                raise self._fault(name, first + row, column, "nothing is there")
        uris = columns["uri"]
        if "image_id" not in columns:
            columns["image_id"] = pc.replace_substring_regex(uris, r"^[A-Za-z][A-Za-z0-9+.-]*://", "")
        columns["uri"] = resolved(uris, self._files.folder)
        if "objects" in columns:
            self._check_objects(name, first, columns["objects"])
        nothing = {field.name: pa.nulls(len(table), field.type) for field in MANIFEST if field.name not in columns}
        return pa.table(columns | nothing).select(MANIFEST.names).cast(MANIFEST)

    def _cast(self, name: str, first: int, column: str, values: pa.Array) -> pa.Array:
        wanted = MANIFEST.field(column).type
        if column == "captions" and (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
            offsets = pa.array(np.arange(len(values) + 1), pa.int32())
            return pa.ListArray.from_arrays(offsets, values.cast(pa.string()), mask=values.is_null())
        try:
            return _objects(values) if column == "objects" else values.cast(wanted)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError) as error:
            row = next((row for row in range(len(values)) if not _casts(values.slice(row, 1), column, wanted)), 0)
            what = f"{values[row].as_py()!r} ({values.type}) is no {wanted}: {error}"
            raise self._fault(name, first + row, column, what) from error

    def _check_objects(self, name: str, first: int, values: pa.Array) -> None:
        if not len(values.flatten()):
            return
        flat = values.flatten()
        boxes = flat.field("bbox")
        bad = pc.or_(
            pc.fill_null(pc.not_equal(pc.list_value_length(boxes), 4), True), flat.field("category").is_null()
        ).to_numpy(zero_copy_only=False)
        finite = pc.fill_null(pc.is_finite(boxes.flatten()), False).to_numpy(zero_copy_only=False)
        bad[pc.list_parent_indices(boxes).to_numpy()[~finite]] = True
        if bad.any():
            entry = int(np.argmax(bad))
            row = int(pc.list_parent_indices(values)[entry].as_py())
            what = f"{flat[entry].as_py()} is no object with a category and a bbox of [x, y, width, height]"
            raise self._fault(name, first + row, "objects", what)

    def _fault(self, name: str, row: int, column: str, what: str) -> InputError:
        return InputError(f"{self._files.address(name)}: row {row}, column '{column}': {what}. Fix the file.")


def _objects(values: pa.Array) -> pa.Array:
    """Structs by the names of their fields, in whatever order; `is_crowd` may be left out, and others are dropped."""
    wanted = MANIFEST.field("objects").type
    if pa.types.is_null(values.type):
        return values.cast(wanted)
    if not (pa.types.is_list(values.type) or pa.types.is_large_list(values.type)):
        raise pa.ArrowInvalid("not a list")
    flat = values.flatten()
    if not pa.types.is_struct(flat.type):
        raise pa.ArrowInvalid("not a list of structs")
    names = [field.name for field in flat.type]
    is_crowd = flat.field("is_crowd") if "is_crowd" in names else pa.nulls(len(flat), pa.bool_())
    fields = [
        flat.field("category").cast(pa.string()),
        flat.field("bbox").cast(pa.list_(pa.float64())),
        pc.fill_null(is_crowd.cast(pa.bool_()), False),
    ]
    structs = pa.StructArray.from_arrays(fields, ["category", "bbox", "is_crowd"])
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy()
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, structs, mask=values.is_null()).cast(wanted)


def _casts(values: pa.Array, column: str, wanted: pa.DataType) -> bool:
    try:
        _objects(values) if column == "objects" else values.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError):
        return False
    return True


class _TextManifest(Source):
    """What CSV and JSON Lines share: rows with the line they stand in, checked one by one."""

    name = "manifest"
    kind: str
    readers = _READERS

    def __init__(self, place: str) -> None:
        self._place = absolute(place)
        self._folder = split(self._place)[0]

    def describe(self) -> str:
        return f"manifest {self._place}, {self.kind}"

    def place(self, index: int) -> str:
        line = next(islice(self._rows(), index, None))[0]
        return f"{self._place}: line {line}"

    def categories(self) -> list[str] | None:
        return categories_of(self.tables())

    def tables(self) -> Iterator[pa.Table]:
        return in_tables(self._record(line, row) for line, row in self._rows())

    @abstractmethod
    def _rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Each row with its line, counted from 1."""

    def _record(self, line: int, row: dict[str, Any]) -> ImageRecord:
        uri = row.get("uri")
        if not isinstance(uri, str) or not uri or not is_text(uri):
            self._refuse(line, "uri", f"{uri!r} is no path or address")
        image_id = row.get("image_id")
        if image_id is None or image_id == "":
            image_id = without_scheme(uri)
        if isinstance(image_id, float) and image_id.is_integer():
            image_id = int(image_id)
        if isinstance(image_id, bool) or not isinstance(image_id, str | int) or not is_text(str(image_id)):
            self._refuse(line, "image_id", f"{image_id!r} is neither a text nor a number")
        found: dict[str, Any] = {}
        for column, read in self.readers.items():
            try:
                found[column] = read(row.get(column))
            except ValueError as error:
                self._refuse(line, column, str(error))
        return ImageRecord(str(image_id), self._resolved(uri), **found)

    def _resolved(self, uri: str) -> str:
        return uri if uri.startswith("/") or "://" in uri else f"{self._folder.rstrip('/')}/{uri}"

    def _refuse(self, line: int, column: str, what: str) -> NoReturn:
        raise InputError(f"{self._place}: line {line}, column '{column}': {what}. Fix the file.")


class _CsvManifest(_TextManifest):
    kind = "CSV"
    readers = _READERS | {"captions": annotated.captions_of_cell}

    def _rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        csv.field_size_limit(MAX_FIELD_CHARACTERS)  # a crowded image has long objects
        with readable(self._place), open_stream(self._place) as file:
            reader = csv.reader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), strict=True)
            try:
                header = [name.strip() for name in next(reader, [])]
                if "uri" not in header:
                    raise InputError(
                        f"{self._place}: line 1: no column 'uri', only {', '.join(header) or 'nothing'}. "
                        "Begin the file with a line of column names, and name that of the paths or addresses so."
                    )
                line = reader.line_num + 1
                for fields in reader:
                    if fields and len(fields) != len(header):
                        raise InputError(
                            f"{self._place}: line {line}: {len(fields)} fields instead of {len(header)}. "
                            "Put fields with commas into quotes, and double the quotes in them."
                        )
                    if fields:
                        yield line, dict(zip(header, fields, strict=True))
                    line = reader.line_num + 1
            except (csv.Error, UnicodeDecodeError) as error:
                raise InputError(
                    f"{self._place}: line {reader.line_num}: {error}. Save the file as UTF-8, quotes in pairs."
                ) from error


class _JsonLinesManifest(_TextManifest):
    kind = "JSON Lines"

    def _rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        with readable(self._place), open_stream(self._place) as file:
            for line, text in enumerate(file, 1):
                if not text.strip():
                    continue
                try:
                    row = json.loads(text)
                except ValueError as error:
                    raise InputError(f"{self._place}: line {line}: not JSON ({error}). Fix the line.") from error
                if not isinstance(row, dict):
                    raise InputError(f"{self._place}: line {line}: {row!r} is no JSON object. Fix the line.")
                yield line, row
