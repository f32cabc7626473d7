"""Decisions about conversations, made after their rows: which are kept, and why others are not.

Rows are never rewritten. `verdicts/NNN.parquet` lists decisions, and `verdicts/NNN.json`, written after it, makes them
count: it says who decided, by what settings, and what came of it. Of each author the newest decision counts as a whole,
so deciding again undoes nothing of others'; where authors differ, the later file is right. A verdict is about one text:
it names the pass that made it, and what a newer pass says instead is not judged by it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vigc.platform.dataset.ledger import COMPRESSION
from vigc.platform.records import StoreError, Verdict
from vigc.platform.storage import Folder

VERDICTS_FOLDER = "verdicts"
VERDICT = pa.schema(
    [
        ("image_id", pa.string()),
        ("kind", pa.string()),
        ("pass", pa.string()),  # the pass that made the conversation
        ("verdict", pa.string()),
        ("reasons", pa.list_(pa.string())),
    ]
)
NEEDED = ("image_id", "pass", "conversations")  # columns of a row that a verdict is looked up and written with


@dataclass(frozen=True, slots=True)
class VerdictFile:
    """What `verdicts/NNN.json` says."""

    by: str  # the verb that decided: filter, audit
    number: str
    sha256: str  # of NNN.parquet
    about: dict[str, Any]  # settings, counts, whatever the author wants to be known


WithReasons = tuple[Verdict, list[str]]


@dataclass(frozen=True)
class Verdicts:
    """The decisions that count, ready to be applied to rows."""

    files: list[VerdictFile] = field(default_factory=list)  # those that count, oldest first
    _of: dict[str, dict[tuple[str, str], WithReasons]] = field(default_factory=dict)  # image_id -> (kind, pass)

    def __bool__(self) -> bool:
        return bool(self._of)

    def of(self, image_id: str, kind: str, pass_: str) -> WithReasons | None:
        return self._of.get(image_id, {}).get((kind, pass_))

    def apply(self, row: MutableMapping[str, Any]) -> None:
        """Puts status and reasons into the conversations of a row, which is in the shape of `records.Row`."""
        decisions = self._of.get(row["image_id"])
        if decisions is None:
            return
        for spoken in row["conversations"]:
            decision = decisions.get((spoken["kind"], row["pass"]))
            if decision is not None:
                spoken["status"], spoken["reasons"] = decision[0].value, decision[1]

    def applied(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The same for a batch with the columns NEEDED, conversations with kind, status and reasons among theirs."""
        ids = batch["image_id"].to_pylist()
        if not any(image_id in self._of for image_id in ids):
            return batch
        lists = batch["conversations"]
        parents = pc.list_parent_indices(lists).to_pylist()
        spoken = lists.flatten()
        kinds, passes = spoken.field("kind").to_pylist(), batch["pass"].to_pylist()
        status, reasons = spoken.field("status").to_pylist(), spoken.field("reasons").to_pylist()
        for place, (row, kind) in enumerate(zip(parents, kinds, strict=True)):
            decision = self.of(ids[row], kind, passes[row])
            if decision is not None:
                status[place], reasons[place] = decision[0].value, decision[1]
        names = [one.name for one in spoken.type]
        changed = {"status": pa.array(status, pa.string()), "reasons": pa.array(reasons, pa.list_(pa.string()))}
        made = pa.StructArray.from_arrays([changed.get(name, spoken.field(name)) for name in names], names)
        lengths = pc.list_value_length(lists).to_numpy()
        offsets = pa.array([0, *lengths.cumsum().tolist()], pa.int32())
        column = batch.schema.get_field_index("conversations")
        return batch.set_column(column, "conversations", pa.ListArray.from_arrays(offsets, made))


def read_verdicts(folder: Folder) -> Verdicts:
    """
    Args:
        folder: the data set's.
    Raises:
        StoreError: a file that counts is gone, damaged or none.
    """
    newest = {one.by: one for one in verdict_files(folder)}
    counting = sorted(newest.values(), key=lambda file: int(file.number))
    of: dict[str, dict[tuple[str, str], WithReasons]] = {}
    decisions: dict[tuple[str, ...], WithReasons] = {}  # a few different ones, shared by all
    for file in counting:
        for one in _table(folder, file).to_pylist():
            key = (one["verdict"], *one["reasons"])
            decision = decisions.setdefault(key, (Verdict(one["verdict"]), one["reasons"]))
            of.setdefault(one["image_id"], {})[one["kind"], one["pass"]] = decision
    return Verdicts(counting, of)


def verdict_files(folder: Folder) -> list[VerdictFile]:
    """All that were ever made, oldest first."""
    found = []
    for name in folder.names(VERDICTS_FOLDER):
        if not name.endswith(".json"):
            continue
        path = f"{VERDICTS_FOLDER}/{name}"
        try:
            values = json.loads(folder.read(path))
            found.append(VerdictFile(values["by"], values["number"], values["sha256"], values["about"]))
        except (ValueError, TypeError, KeyError) as error:
            raise StoreError(
                f"{folder}/{path}: no description of verdicts ({error}). Restore it, or delete it and decide again."
            ) from error
    return sorted(found, key=lambda file: int(file.number))


def write_verdicts(
    folder: Folder, by: str, batches: Iterable[Mapping[str, list[Any]]], about: Mapping[str, Any]
) -> tuple[VerdictFile, bool]:
    """Decides: these verdicts take the place of all earlier ones of the same author. Hold the folder's lock.

    Args:
        batches: columns of the schema VERDICT, some thousand rows at a time.
    Returns:
        The file, and whether anything changed: the newest of this author with the same verdicts and the same `about`
        stays as it is.
    """
    made = verdict_files(folder)
    with tempfile.TemporaryDirectory(prefix="vigc-") as scratch:
        path = Path(scratch) / "verdicts.parquet"
        with pq.ParquetWriter(path, VERDICT, compression=COMPRESSION) as writer:
            for columns in batches:
                writer.write_table(pa.table(dict(columns), VERDICT))
        digest = sha256(path.read_bytes()).hexdigest()
        about_it: dict[str, Any] = json.loads(json.dumps(about))
        mine = [file for file in made if file.by == by]
        if mine and (mine[-1].sha256, mine[-1].about) == (digest, about_it) and mine[-1] == made[-1]:
            return mine[-1], False
        file = VerdictFile(by, f"{int(made[-1].number) + 1 if made else 1:03}", digest, about_it)
        folder.upload(f"{VERDICTS_FOLDER}/{file.number}.parquet", path)
    with folder.new_text(f"{VERDICTS_FOLDER}/{file.number}.json") as stream:
        values = {"by": by, "number": file.number, "sha256": digest, "about": about_it}
        json.dump(values, stream, indent=2, ensure_ascii=False)
        stream.write("\n")
    return file, True


def faults_of(folder: Folder) -> list[str]:
    """What is wrong with the verdicts, as sentences for `vigc verify`."""
    problems = []
    files = {one.number: one for one in verdict_files(folder)}
    for file in files.values():
        try:
            _table(folder, file)
        except StoreError as error:
            problems.append(str(error))
    for name in folder.names(VERDICTS_FOLDER):
        stem, _, suffix = name.rpartition(".")
        if suffix != "json" and stem not in files:
            problems.append(f"{folder}/{VERDICTS_FOLDER}/{name} counts for nothing. Delete it, or decide again.")
    return problems


def _table(folder: Folder, file: VerdictFile) -> pa.Table:
    path = f"{VERDICTS_FOLDER}/{file.number}.parquet"
    remedy = f"Restore it, or delete {folder}/{VERDICTS_FOLDER}/{file.number}.json and decide again."
    try:
        data = folder.read(path)
    except FileNotFoundError as error:
        raise StoreError(f"{folder}/{path} is gone. {remedy}") from error
    if sha256(data).hexdigest() != file.sha256:
        raise StoreError(f"{folder}/{path} is not as it was written. {remedy}")
    return pq.read_table(pa.BufferReader(data))
