"""Data sets in the forms of Hugging Face, read with pyarrow alone: a `save_to_disk` folder (Arrow streams), or a
repository of Parquet files, on disk or on the hub (hf://datasets/OWNER/NAME).

The image column is the one whose feature is Image, a struct of `bytes` and `path`, a list of one such struct, or bytes
under an image's name. Images stay where they are: the uri is `FILE#row=ROW&column=NAME`, rows counted from 0 in each
file, or the struct's `path` where no row has bytes. The image_id is the struct's `path` where all are there and
different, else the file's name, a slash, and the row.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vigc.platform.records import InputError
from vigc.platform.schema import MANIFEST
from vigc.platform.sources.addresses import absolute, is_folder, open_stream, readable, resolved, split
from vigc.platform.sources.base import RECORDS_PER_TABLE, Source, first_repeated
from vigc.platform.sources.hub import HUB
from vigc.platform.sources.parquet_files import ParquetFiles
from vigc.platform.storage import LocalFolder, open_folder

CAPTION_COLUMNS = ("caption", "captions", "text")
STRUCT, LIST, BYTES = "struct", "list", "bytes"
BYTES_COLUMNS = ("image", "images", "img", "jpg", "jpeg", "png", "image_bytes")  # names of columns of plain bytes


def open_huggingface(place: str) -> Source:
    """Raises InputError when it is none, or has no column of images."""
    if not place.startswith(HUB) and is_folder(place) and _is_saved(place):
        return HuggingFaceSource(_SavedFiles(place))
    return HuggingFaceSource(_RepositoryFiles(place))


def image_column(schema: pa.Schema) -> str | None:
    """By the features that the data set's own library notes in the schema, else by the form of the column."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        features = {}
    for name, feature in features.items():
        one = feature[0] if isinstance(feature, list) and feature else feature  # a list of images, in either notation
        one = one.get("feature", one) if isinstance(one, dict) else one
        if isinstance(one, dict) and one.get("_type") == "Image" and _form(schema, name) in (STRUCT, LIST):
            return str(name)
    found = {name: form for name in schema.names if (form := _form(schema, name)) is not None}
    structs = [name for name, form in found.items() if form != BYTES]
    return next((name for name in (*structs, *found) if found[name] != BYTES or name in BYTES_COLUMNS), None)


def _form(schema: pa.Schema, name: str) -> str | None:
    """How a column holds images: STRUCT, LIST or BYTES; None: it holds none."""
    if schema.get_field_index(name) < 0:
        return None
    kind, form = schema.field(name).type, STRUCT
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return BYTES
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind, form = kind.value_type, LIST
    if not pa.types.is_struct(kind) or not {"bytes", "path"} <= {field.name for field in kind}:
        return None
    return form


class _Files(ABC):
    """Files of rows with the same columns."""

    place: str
    names: Sequence[str]

    @abstractmethod
    def schema(self) -> pa.Schema: ...

    @abstractmethod
    def address(self, name: str) -> str: ...

    @abstractmethod
    def tables(self, name: str, columns: Sequence[str]) -> Iterator[pa.Table]:
        """`columns` may name a part of one, as `image.path`; of a struct, only that part is there then."""

    def num_rows(self) -> int | None:
        return None

    def all_null(self, name: str, column: str) -> bool:
        """Whether a part of a column, as `image.bytes`, has no value in any row."""
        found = (pc.struct_field(one, column.partition(".")[2]) for one in self._chunks(name, column))
        return all(values.null_count == len(values) for values in found)

    def _chunks(self, name: str, column: str) -> Iterator[pa.Array]:
        for table in self.tables(name, [column]):
            yield from table[column.partition(".")[0]].chunks


class _RepositoryFiles(_Files):
    def __init__(self, place: str) -> None:
        self._parquet = ParquetFiles(place)
        self.place, self.names = self._parquet.place, self._parquet.names
        self._require_same_columns()

    def schema(self) -> pa.Schema:
        return self._parquet.schema(self.names[0])

    def address(self, name: str) -> str:
        return self._parquet.address(name)

    def tables(self, name: str, columns: Sequence[str]) -> Iterator[pa.Table]:
        for batch in self._parquet.batches(name, columns, RECORDS_PER_TABLE):
            yield pa.table(batch)

    def num_rows(self) -> int:
        return self._parquet.num_rows

    def all_null(self, name: str, column: str) -> bool:
        return self._parquet.all_null(name, column)

    def _require_same_columns(self) -> None:
        for name in self.names:
            if self._parquet.schema(name).names != self.schema().names:
                raise InputError(
                    f"{self.address(name)}: other columns than {self.names[0]}. Name the folder of one data set only."
                )


class _SavedFiles(_Files):
    def __init__(self, place: str) -> None:
        self.place = absolute(place)
        folder = open_folder(self.place)
        names = folder.names()
        if "dataset_dict.json" in names:
            splits = self._json("dataset_dict.json").get("splits") or ["train"]
            raise InputError(
                f"{self.place} holds the splits {', '.join(splits)}. Name one, such as {self.place}/{splits[0]}."
            )
        files = self._json("state.json").get("_data_files", [])
        self.names = [file["filename"] for file in files if isinstance(file, dict) and "filename" in file]
        if not self.names:
            raise InputError(f"{self.place}/state.json: names no data file. Save the data set anew.")
        if missing := [name for name in self.names if name not in names]:
            raise InputError(f"{self.place}/{missing[0]}: named in state.json, but not there. Copy it, too.")

    def schema(self) -> pa.Schema:
        place = self.address(self.names[0])
        with readable(place), open_stream(place) as file:
            return pa.ipc.open_stream(file).schema

    def address(self, name: str) -> str:
        return f"{self.place}/{name}"

    def tables(self, name: str, columns: Sequence[str]) -> Iterator[pa.Table]:
        place = self.address(name)
        folder = open_folder(self.place)
        with readable(place):
            # Mapped where it can be, so that images that nobody asked for are not read.
            file = pa.memory_map(place) if isinstance(folder, LocalFolder) else open_stream(place)
            with file:
                for batch in pa.ipc.open_stream(file):
                    yield _parts(batch, columns)

    def _json(self, name: str) -> dict[str, Any]:
        place = f"{self.place}/{name}"
        with readable(place), open_stream(place) as file:
            try:
                content = json.load(file)
            except ValueError as error:
                raise InputError(f"{place}: not JSON ({error}). Save the data set anew.") from error
        if not isinstance(content, dict):
            raise InputError(f"{place}: no JSON object. Save the data set anew.")
        return content


class HuggingFaceSource(Source):
    name = "huggingface"

    def __init__(self, files: _Files) -> None:
        self._files = files
        schema = files.schema()
        column = image_column(schema)
        if column is None:
            raise InputError(
                f"{files.address(files.names[0])}: no column of images among {', '.join(schema.names)}. "
                "A data set of paths or addresses is a manifest: --source manifest."
            )
        self._column, self._form = column, _form(schema, column)
        self._is_of_paths = self._form == STRUCT and all(
            files.all_null(name, f"{column}.bytes") for name in files.names
        )
        self._texts = next((name for name in CAPTION_COLUMNS if name in schema.names and _is_text(schema, name)), None)
        self._sides = [
            name
            for name in ("width", "height")
            if name in schema.names and pa.types.is_integer(schema.field(name).type)
        ]

    def describe(self) -> str:
        captions = f", captions {self._texts!r}" if self._texts else ""
        return f"huggingface {self._files.place}, images {self._column!r}{captions}, files: {len(self._files.names)}"

    def num_images(self) -> int | None:
        return self._files.num_rows()

    def place(self, index: int) -> str:
        first = 0
        for table in self.tables():
            if index < first + len(table):
                address, _, rest = table["uri"][index - first].as_py().rpartition("#")
                return f"{address}: row {rest.partition('&')[0].removeprefix('row=')}"
            first += len(table)
        return super().place(index)

    def tables(self) -> Iterator[pa.Table]:
        path = [] if self._form == BYTES else [f"{self._column}.path"]
        columns = [*path, *([self._texts] if self._texts else []), *self._sides]
        for name in self._files.names:
            first = 0
            for found in self._files.tables(name, columns):
                for start in range(0, len(found), RECORDS_PER_TABLE):
                    table = found.slice(start, RECORDS_PER_TABLE).combine_chunks()
                    yield self._manifest(name, first + start, table)
                first += len(found)

    def _manifest(self, name: str, first: int, table: pa.Table) -> pa.Table:
        rows = pa.array(np.arange(first, first + len(table))).cast(pa.string())
        uris = pc.binary_join_element_wise(f"{self._files.address(name)}#row=", rows, f"&column={self._column}", "")
        if self._is_of_paths:
            uris = resolved(_paths(table, self._column).combine_chunks(), split(self._files.address(name))[0])
        columns: dict[str, Any] = {field.name: pa.nulls(len(table), field.type) for field in MANIFEST}
        columns |= {
            "image_id": _paths(table, self._column)
            if self._have_paths
            else pc.binary_join_element_wise(name, rows, "/"),
            "uri": uris,
        }
        columns |= {side: table[side] for side in self._sides}
        if self._texts:
            columns["captions"] = _lists(table[self._texts])
        return pa.table(columns).cast(MANIFEST)

    @cached_property
    def _have_paths(self) -> bool:
        """Whether the structs' paths can be the ids."""
        if self._form != STRUCT:
            return False
        found: list[pa.Array] = []
        for name in self._files.names:
            for table in self._files.tables(name, [f"{self._column}.path"]):
                paths = _paths(table, self._column)
                if paths.null_count or pc.any(pc.equal(paths, "")).as_py():
                    return False
                found += paths.chunks
        paths = pa.chunked_array(found, pa.string())
        return first_repeated(paths.combine_chunks()) is None


def _is_saved(place: str) -> bool:
    return bool({"state.json", "dataset_dict.json"} & set(open_folder(place).names()))


def _is_text(schema: pa.Schema, name: str) -> bool:
    kind = schema.field(name).type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _paths(table: pa.Table, column: str) -> pa.ChunkedArray:
    chunks = [pc.struct_field(chunk, "path").cast(pa.string()) for chunk in table[column].chunks]
    return pa.chunked_array(chunks, pa.string())


def _lists(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """One text as a list of one."""
    if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
        return texts
    values = texts.combine_chunks()
    offsets = pa.array(np.arange(len(values) + 1), pa.int32())
    return pa.chunked_array([pa.ListArray.from_arrays(offsets, values.cast(pa.string()), mask=values.is_null())])


def _parts(batch: pa.RecordBatch, columns: Sequence[str]) -> pa.Table:
    found = {}
    for column in columns:
        name, _, part = column.partition(".")
        values = batch[name]
        if part and pa.types.is_struct(values.type):
            values = pa.StructArray.from_arrays([pc.struct_field(values, part)], [part])
        found[name] = values
    return pa.table(found)
