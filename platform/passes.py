"""One pass: what was asked of which images, and the rows committed so far.

A pass counts once its `request.json` is there, which is written last. A row counts once Ray Data's ledger
(`_checkpoint/`) names its file as committed: `X.parquet` there vouches for `rows/X-0.parquet`, `X.pending.parquet`
says that `rows/X-*` may be torn. Readers follow the ledger, so what a killed run left behind is never read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from pyarrow.fs import FileSelector, FileSystem, LocalFileSystem, SubTreeFileSystem

from vigc.platform.files import explained, written_whole
from vigc.platform.records import ImageRecord, InputError, StoreError
from vigc.platform.schema import MANIFEST, ROW, to_dict

MANIFEST_FOLDER, ROWS_FOLDER, LEDGER_FOLDER = "manifest", "rows", "_checkpoint"
REQUEST_FILE = "request.json"
PENDING = ".pending.parquet"
RECORDS_PER_SHARD = 50_000


@dataclass(frozen=True)
class Pass:
    """One request and what has been done of it."""

    path: Path
    request: dict[str, Any]

    @property
    def number(self) -> str:
        return self.path.name

    @property
    def files(self) -> FileSystem:
        """The pass's folder as a file system of its own: no name needs quoting, and Ray's workers can take it along."""
        return SubTreeFileSystem(str(self.path), LocalFileSystem())

    @property
    def manifest(self) -> Path:
        return self.path / MANIFEST_FOLDER

    @property
    def rows_dir(self) -> Path:
        return self.path / ROWS_FOLDER

    @property
    def checkpoint_dir(self) -> Path:
        return self.path / LEDGER_FOLDER

    @property
    def num_requested(self) -> int:
        return self._count([f"{MANIFEST_FOLDER}/{name}" for name in self.listed(MANIFEST_FOLDER)])

    def remaining(self) -> int:
        """How many of the requested images have no committed row."""
        return self.num_requested - self._count([f"{ROWS_FOLDER}/{name}" for name in self.committed_files()])

    def listed(self, folder: str) -> list[str]:
        with explained(self.path / folder):
            found = self.files.get_file_info(FileSelector(folder, allow_not_found=True))
        return sorted(info.base_name for info in found)

    def committed_files(self) -> list[str]:
        """Names in `rows/` that the ledger vouches for."""
        committed = self.ledger()
        return [name for name in self.listed(ROWS_FOLDER) if stem_of(name) in committed]

    def ledger(self) -> set[str]:
        """The stems of the row files that were committed, whether or not the files are still there."""
        return {name.removesuffix(".parquet") for name in self.listed(LEDGER_FOLDER) if not name.endswith(PENDING)}

    def discard_uncommitted(self) -> None:
        """Deletes what a killed run left half done.

        Ray deletes what it knows to be pending, but a worker that outlives its driver for a moment can leave more.
        """
        committed = set(self.committed_files())
        with explained(self.path):
            for name in self.listed(ROWS_FOLDER):
                if name not in committed:
                    self.files.delete_file(f"{ROWS_FOLDER}/{name}")
            for name in self.listed(LEDGER_FOLDER):
                if name.endswith(PENDING):
                    self.files.delete_file(f"{LEDGER_FOLDER}/{name}")

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """This pass's committed rows, file by file, as plain dicts in the shape of `records.Row`."""
        yield from self._read([f"{ROWS_FOLDER}/{name}" for name in self.committed_files()], ROW, columns)

    def image_ids(self) -> Iterator[str]:
        """The ids that were asked for, in the order of the source."""
        shards = [f"{MANIFEST_FOLDER}/{name}" for name in self.listed(MANIFEST_FOLDER)]
        for record in self._read(shards, MANIFEST, ["image_id"]):
            yield record["image_id"]

    def add_run(self, provenance: Mapping[str, Any]) -> Path:
        """Notes one run of this pass in `runs/NNN.json`: what may differ between runs without changing the rows."""
        number = len(self.listed("runs")) + 1
        path = self.path / "runs" / f"{number:03}.json"
        write_json(path, provenance)
        return path

    def _count(self, paths: list[str]) -> int:
        with readable(self.path):
            return int(self._dataset(paths, ROW).count_rows()) if paths else 0

    def _read(self, paths: list[str], schema: pa.Schema, columns: Sequence[str] | None) -> Iterator[dict[str, Any]]:
        if not paths:
            return
        names = list(columns) if columns is not None else schema.names
        with readable(self.path):
            dataset = self._dataset(paths, schema)
            for batch in dataset.to_batches(names, batch_size=512, batch_readahead=2, fragment_readahead=2):
                yield from batch.to_pylist()

    def _dataset(self, paths: list[str], schema: pa.Schema) -> pads.Dataset:
        return pads.dataset(paths, schema=schema, format="parquet", filesystem=self.files)


def write_pass(path: Path, request: Mapping[str, Any], records: Iterable[ImageRecord]) -> Pass:
    """Writes the manifest shard by shard and then, as the last thing, the request that makes it count."""
    manifest = path / MANIFEST_FOLDER
    seen: set[str] = set()
    with explained(manifest):
        manifest.mkdir(parents=True)
        files = SubTreeFileSystem(str(manifest), LocalFileSystem())
        remaining = iter(records)
        for number, shard in enumerate(iter(lambda: list(islice(remaining, RECORDS_PER_SHARD)), [])):
            for record in shard:
                if record.image_id in seen:
                    raise InputError(f"The image_id {record.image_id!r} comes twice, now as {record.uri}. Rename one.")
                seen.add(record.image_id)
            table = pa.Table.from_pylist([to_dict(record) for record in shard], schema=MANIFEST)
            pq.write_table(table, f"{number:05}.parquet", filesystem=files)
    if not seen:
        raise InputError("The source gave no image, so there is nothing to do. Check the path and the limit.")
    write_json(path / REQUEST_FILE, request)
    return read_pass(path)


def read_pass(path: Path) -> Pass:
    with explained(path / REQUEST_FILE):
        text = (path / REQUEST_FILE).read_text(encoding="utf-8")
    try:
        return Pass(path, json.loads(text))
    except ValueError as error:
        raise StoreError(f"{path / REQUEST_FILE}: not JSON ({error}). Restore it or use another folder.") from error


def stem_of(row_file: str) -> str:
    """`X-0.parquet` -> `X`, the name of its entry in the ledger."""
    return row_file.rpartition("-")[0]


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    with written_whole(path) as file:
        json.dump(content, file, indent=2, ensure_ascii=False)
        file.write("\n")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns a damaged Parquet file into a StoreError."""
    with explained(path):
        try:
            yield
        except pa.ArrowInvalid as error:
            raise StoreError(f"{path}: a file is damaged ({error}). `vigc verify` lists what is.") from error
