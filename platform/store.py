"""The dataset directory: its passes, who may write to it, and the view that a reader gets of its rows.

The view shows each (image_id, kind) once: as the newest pass that asked for it committed it. A folder that is not a
dataset directory, or that holds the answer to another request, is refused before anything in it is touched.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vigc.platform.files import explained, only_writer
from vigc.platform.passes import REQUEST_FILE, Pass, read_pass, write_pass
from vigc.platform.records import ConfigError, ImageRecord, RowStatus, StoreError
from vigc.platform.request import differences, plain

__all__ = ["Pass", "Store"]

# Everything a dataset directory may hold at its top; `overwrite` refuses to touch a folder with anything else in it.
OWN_ENTRIES = frozenset({"passes", "verdicts", "exports", "summary.json", "report.html", ".lock"})


class Store:
    """A dataset directory on this machine's file system; making a Store touches nothing."""

    def __init__(self, out: str | Path) -> None:
        self.path = Path(out).absolute()

    def exists(self) -> bool:
        return bool(self.passes())

    def passes(self) -> list[Pass]:
        """Oldest first. A pass without a request was never completely created and does not count."""
        return [read_pass(folder) for folder in self._folders() if (folder / REQUEST_FILE).exists()]

    def existing_passes(self) -> list[Pass]:
        """Like `passes`, for readers. Raises StoreError when there is none."""
        passes = self.passes()
        if not passes:
            raise StoreError(f"{self.path} holds no data set. Make one with: vigc generate IMAGES --out {self.path}")
        return passes

    def find_pass(self, request: Mapping[str, Any]) -> Pass | None:
        """The pass that a run with this request continues, or None when the directory is free for a new one.

        Raises:
            StoreError: the directory holds the answer to another request (every difference is named), or foreign files.
        """
        passes = self.passes()
        if not passes:
            self._check_free()
            return None
        wanted = plain(request)
        for candidate in reversed(passes):
            if candidate.request == wanted:
                return candidate
        changed = "; ".join(differences(passes[-1].request, wanted))
        raise StoreError(
            f"{self.path} holds the answer to another request: {changed}. "
            "Choose another --out, go back to the old settings, or replace the data with --overwrite."
        )

    def create_pass(self, request: Mapping[str, Any], records: Iterable[ImageRecord]) -> Pass:
        """Writes down what is asked of which images. Nothing counts until all of it is on disk.

        Args:
            request: everything that decides what the rows will be, as JSON values; at least `kinds`, a list of strings.
        Raises:
            StoreError: the directory is being written, cannot be written, or already has a pass with this request.
            InputError: no record, or two with the same image_id.
        """
        if not request.get("kinds"):
            raise ConfigError("A request needs at least one kind of conversation.")
        is_new = not self.path.exists()
        self._check_free()
        with only_writer(self.path):
            if any(existing.request == plain(request) for existing in self.passes()):
                raise StoreError(f"{self.path} has a pass with this request. Run the same command to continue it.")
            numbers = [int(folder.name) for folder in self._folders() if (folder / REQUEST_FILE).exists()]
            path = self.path / "passes" / f"{max(numbers, default=0) + 1:03}"
            try:
                self._remove(path)  # what a crash during an earlier create_pass left
                return write_pass(path, plain(request), records)
            except BaseException:
                self._remove(self.path if is_new else path)
                raise

    def overwrite(self) -> None:
        """Removes the data set, so that a new one can take its place. Does nothing where there is none.

        Raises:
            StoreError: the folder holds anything that is no part of a dataset directory, or is being written.
        """
        if not self.exists():
            self._check_free()
            return
        if foreign := self._foreign_entries():
            raise StoreError(f"{self.path} also holds {_some(foreign)}. Move that away, or choose another folder.")
        with only_writer(self.path):
            self._remove(self.path)

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """The view, streamed in no particular order, as plain dicts in the shape of `records.Row`.

        A row carries the conversations that no newer pass has replaced, so an image that two passes worked on may come
        as two rows with different kinds. A failed row stands for all kinds that its pass asked for.
        """
        passes = self.existing_passes()
        if len(passes) == 1:
            yield from passes[0].rows(columns)
            return
        names = None if columns is None else {*columns, "image_id", "status", "conversations"}
        replaced: dict[str, set[str]] = {}
        for current in reversed(passes):
            here: dict[str, set[str]] = {}
            for row in current.rows(sorted(names) if names else None):
                newer = replaced.get(row["image_id"], set())
                kinds = set(kinds_of(row, current))
                here[row["image_id"]] = kinds
                if kinds <= newer:
                    continue
                if row["conversations"]:
                    row["conversations"] = [c for c in row["conversations"] if c["kind"] not in newer]
                yield row if columns is None else {name: row[name] for name in columns}
            for image_id, kinds in here.items():
                replaced.setdefault(image_id, set()).update(kinds)

    def _folders(self) -> list[Path]:
        passes = self.path / "passes"
        with explained(self.path):
            if not passes.is_dir():
                return []
            return sorted((f for f in passes.iterdir() if f.name.isdecimal()), key=lambda folder: int(folder.name))

    def _check_free(self) -> None:
        """A new data set may only go where nothing else is."""
        with explained(self.path):
            if self.path.exists() and not self.path.is_dir():
                raise StoreError(f"{self.path} is a file. Name a folder that does not exist yet.")
            if self.exists() or not (foreign := self._foreign_entries()):
                return
        raise StoreError(f"{self.path} holds {_some(foreign)}, which is no data set. Name an empty or a new folder.")

    def _foreign_entries(self) -> list[str]:
        if not self.path.exists():
            return []
        return sorted(entry.name for entry in self.path.iterdir() if entry.name not in OWN_ENTRIES)

    def _remove(self, path: Path) -> None:
        with explained(path):
            if path.exists():
                shutil.rmtree(path)


def kinds_of(row: Mapping[str, Any], made_by: Pass) -> list[str]:
    """The kinds a row answers: those it has, or, when it failed, all that were asked for."""
    if row["status"] == RowStatus.FAILED:
        return list(made_by.request["kinds"])
    return [conversation["kind"] for conversation in row["conversations"]]


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
