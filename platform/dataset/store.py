"""A data set: its passes, who may write to it, and the view that a reader gets of its rows.

The view shows each (image_id, kind) once: as the newest pass that asked for it committed it. A folder that is no data
set, or one that was made with other settings, is refused before anything in it is touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from vigc.platform.dataset.layout import REQUEST_FILE
from vigc.platform.dataset.passes import ROWS_PER_BATCH, Pass, read_pass, write_pass
from vigc.platform.dataset.request import differences, plain
from vigc.platform.dataset.verdicts import NEEDED, Verdicts, read_verdicts
from vigc.platform.records import ConfigError, RowStatus, StoreError
from vigc.platform.schema import ROW
from vigc.platform.sources.base import Source
from vigc.platform.storage import LocalFolder, open_folder
from vigc.platform.storage.lock import only_writer
from vigc.platform.vocabulary import Vocabulary

__all__ = ["Pass", "Store"]

PASSES_FOLDER = "passes"

# Everything a data set may hold at its top; `overwrite` refuses to touch a folder with anything else in it.
OWN_ENTRIES = frozenset({"passes", "verdicts", "exports", "summary.json", "report.html", ".lock"})


class Store:
    """A data set on this machine or in an object store; making a Store touches nothing."""

    def __init__(self, out: str | Path) -> None:
        """Raises StoreError where `out` is in a bucket that cannot be used."""
        self.folder = open_folder(out)

    def __str__(self) -> str:
        return self.folder.uri

    def exists(self) -> bool:
        return bool(self._numbers())

    def passes(self) -> list[Pass]:
        """Oldest first. A pass without a request was never completely created and does not count."""
        found = []
        for number in self._numbers():
            try:
                found.append(read_pass(self.folder / f"{PASSES_FOLDER}/{number}"))
            except FileNotFoundError:
                continue
        return found

    def existing_passes(self) -> list[Pass]:
        """Like `passes`, for readers. Raises StoreError when there is none."""
        passes = self.passes()
        if not passes:
            raise StoreError(f"{self} holds no data set. Make one with: vigc generate IMAGES --out {self}")
        return passes

    def find_pass(self, request: Mapping[str, Any]) -> Pass | None:
        """The pass that a run with this request continues, or None when the directory is free for a new one.

        Raises:
            StoreError: the data set was made with other settings, which are named, or the folder holds other files.
        """
        passes = self.passes()
        if not passes:
            self._check_free()
            return None
        if found := self.pass_with(request):
            return found
        # From the pass that comes nearest: a retry differs in more than what the user changed.
        least = min((differences(one.request, plain(request)) for one in reversed(passes)), key=len)
        raise StoreError(
            f"{self} was made with other settings: {'; '.join(least)}. Choose another --out, go back to the old "
            "settings, replace the data with --overwrite, or add a pass with the new settings with --new."
        )

    def pass_with(self, request: Mapping[str, Any]) -> Pass | None:
        """The newest pass with exactly this request."""
        wanted = plain(request)
        return next((one for one in reversed(self.passes()) if one.request == wanted), None)

    def create_pass(
        self,
        request: Mapping[str, Any],
        source: Source,
        rows_per_block: int | None = None,
        vocabulary: Vocabulary | None = None,
    ) -> Pass:
        """Writes down what is asked of which images. Nothing counts until all of it is on storage.

        Args:
            request: everything that decides what the rows will be, as JSON values; at least `kinds`, a list of strings.
            rows_per_block: images that are made and committed at once; None lets their number decide.
            vocabulary: to name objects in; see `write_pass`.
        Raises:
            StoreError: the directory is being written, cannot be written, or already has a pass with this request.
            InputError: no record, or two with the same image_id.
        """
        if not request.get("kinds"):
            raise ConfigError("A request needs at least one kind of conversation.")
        is_new = not self.folder.exists()
        self._check_free()
        with only_writer(self.folder):
            passes = self.passes()
            if any(existing.request == plain(request) for existing in passes):
                raise StoreError(f"{self} has a pass with this request. Run the same command to continue it.")
            name = f"{PASSES_FOLDER}/{int(passes[-1].number) + 1 if passes else 1:03}"
            try:
                self.folder.delete_all(name)  # what a crash during an earlier create_pass left
                return write_pass(self.folder / name, plain(request), source, rows_per_block, vocabulary)
            except BaseException:
                self.folder.delete_all("" if is_new else name)
                raise

    def delete_pass(self, pass_: Pass) -> None:
        """Removes a pass; with the last one goes the directory."""
        with only_writer(self.folder):
            self.folder.delete(f"{PASSES_FOLDER}/{pass_.number}/{REQUEST_FILE}")  # from here on it does not count
            self.folder.delete_all(f"{PASSES_FOLDER}/{pass_.number}" if self.exists() else "")

    def overwrite(self) -> None:
        """Removes the data set, so that a new one can take its place. Does nothing where there is none.

        Raises:
            StoreError: the folder holds anything that is no part of a data set, or is being written.
        """
        if not self.exists():
            self._check_free()
            return
        if foreign := self._foreign_entries():
            raise StoreError(f"{self} also holds {_some(foreign)}. Move that away, or choose another folder.")
        with only_writer(self.folder):
            self.folder.delete_all()

    def verdicts(self) -> Verdicts:
        """The decisions about its conversations that count now."""
        return read_verdicts(self.folder)

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """The view, streamed in no particular order, as plain dicts in the shape of `records.Row`.

        A row carries the conversations that no newer pass has replaced, so an image that two passes worked on may come
        as two rows with different kinds. A failed row stands for all kinds that its pass asked for. Conversations have
        the status and the reasons that the newest verdicts give them.
        """
        verdicts = self.verdicts() if columns is None or "conversations" in columns else Verdicts()
        needed = list(dict.fromkeys([*columns, *NEEDED])) if columns is not None and verdicts else columns
        for row in self.undecided_rows(needed):
            if verdicts:
                verdicts.apply(row)
            yield row if columns is None or not verdicts else {name: row[name] for name in columns}

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The view as record batches with these columns of the schema ROW; fast where there is one pass."""
        verdicts = self.verdicts() if "conversations" in columns else Verdicts()
        if not verdicts:
            yield from self.undecided_batches(columns)
            return
        for batch in self.undecided_batches(list(dict.fromkeys([*columns, *NEEDED]))):
            yield verdicts.applied(batch).select(list(columns))

    def undecided_rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """The view with the status that each conversation was committed with."""
        passes = self.existing_passes()
        if len(passes) == 1:
            yield from passes[0].rows(columns)
            return
        names = None if columns is None else sorted({*columns, "image_id", "status", "conversations"})
        replaced: dict[str, frozenset[str]] = {}
        sets: dict[frozenset[str], frozenset[str]] = {}  # a few different ones, shared by all images
        for current in reversed(passes):
            here: dict[str, frozenset[str]] = {}
            for row in current.rows(names):
                newer = replaced.get(row["image_id"], frozenset())
                kinds = frozenset(kinds_of(row, current))
                joined = newer | kinds
                here[row["image_id"]] = sets.setdefault(joined, joined)
                if kinds <= newer:
                    continue
                if row["conversations"]:
                    row["conversations"] = [c for c in row["conversations"] if c["kind"] not in newer]
                yield row if columns is None else {name: row[name] for name in columns}
            replaced |= here

    def undecided_batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The same as record batches with these columns of the schema ROW."""
        passes = self.existing_passes()
        if len(passes) == 1:
            yield from passes[0].batches(columns)
            return
        schema = pa.schema([ROW.field(name) for name in columns])
        rows = self.undecided_rows(columns)
        while some := list(islice(rows, ROWS_PER_BATCH)):
            yield pa.RecordBatch.from_pylist(some, schema=schema)

    def _numbers(self) -> list[str]:
        """The numbers of the passes that were completely created."""
        numbers = [name for name in self.folder.names(PASSES_FOLDER) if name.isdecimal()]
        complete = [n for n in numbers if REQUEST_FILE in self.folder.names(f"{PASSES_FOLDER}/{n}")]
        return sorted(complete, key=int)

    def _check_free(self) -> None:
        """A new data set may only go where nothing else is."""
        if isinstance(self.folder, LocalFolder) and self.folder.path.is_file():
            raise StoreError(f"{self} is a file. Name a folder that does not exist yet.")
        if self.exists() or not (foreign := self._foreign_entries()):
            return
        raise StoreError(f"{self} holds {_some(foreign)}, which is no data set. Name an empty or a new folder.")

    def _foreign_entries(self) -> list[str]:
        return [name for name in self.folder.names() if name not in OWN_ENTRIES]


def kinds_of(row: Mapping[str, Any], made_by: Pass) -> list[str]:
    """The kinds a row answers: those it has, or, when it failed, all that were asked for."""
    if row["status"] == RowStatus.FAILED:
        return list(made_by.request["kinds"])
    return [conversation["kind"] for conversation in row["conversations"]]


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
