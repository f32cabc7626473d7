"""`vigc validate`: what would trip a trainer in a file of instruction or preference data, with row numbers.

One pass over the file, a row at a time. Rows are counted from 0. Repeated ids and rows are found by 64-bit hashes,
which take 16 bytes a row; images are opened only where asked for, some or all.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vigc.platform.exports.validate.images import EvaluationImages, address_of, open_all
from vigc.platform.exports.validate.reading import ImageReference, Record, read
from vigc.platform.exports.validate.rules import NOTES, Rule, faults

__all__ = ["NOTES", "EvaluationImages", "Found", "Rule", "ValidateOptions", "Validation", "validate"]

RECORDS_AT_ONCE = 256
NUM_EXAMPLES = 20  # rows that are named for a rule

CountTokens = Callable[[list[str]], list[int]]
OnFinding = Callable[[int, Rule, str], None]  # row, what, in words


@dataclass(slots=True)
class Found:
    """The findings of one rule."""

    num: int = 0
    rows: list[int] = field(default_factory=list)  # the first NUM_EXAMPLES
    example: str = ""  # the first one in words


@dataclass(slots=True)
class Validation:
    """What a file is like."""

    num_rows: int = 0
    num_turns: int = 0
    num_images: int = 0
    num_opened: int = 0
    tokens: dict[str, int] | None = None  # min, median, p99, max of a row
    found: dict[Rule, Found] = field(default_factory=dict)

    @property
    def is_ok(self) -> bool:
        return all(rule in NOTES for rule in self.found)


@dataclass(frozen=True, slots=True)
class ValidateOptions:
    """What to look at beside the texts."""

    folder: str | None = None  # that relative image paths start from; None: those are not looked for
    num_open: int | None = 0  # images to open, evenly drawn; None: all
    count_tokens: CountTokens | None = None
    max_tokens: int | None = None
    tokens_per_image: int = 0
    evaluation: EvaluationImages | None = None


def validate(
    place: str,
    checks: ValidateOptions | None = None,
    on_finding: OnFinding | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Validation:
    """Reads the whole file. Raises InputError where it cannot be read."""
    run = _Run(checks or ValidateOptions(), on_finding)
    records = read(place)
    while some := list(islice(records, RECORDS_AT_ONCE)):
        run.take(some)
        if on_progress is not None:
            on_progress(run.result.num_rows)
    run.finish()
    return run.result


class _Run:
    def __init__(self, checks: ValidateOptions, on_finding: OnFinding | None) -> None:
        self.checks, self.on_finding = checks, on_finding
        self.result = Validation()
        self._ids, self._contents = _Repeats(), _Repeats()
        self._tokens = array("I")
        self._drawn = _Drawn(checks.num_open or 0)
        self._opened: set[int] = set()  # hashes of the addresses

    def take(self, records: list[Record]) -> None:
        for record in records:
            self.result.num_rows += 1
            self.result.num_turns += len(record.turns)
            self.result.num_images += len(record.images)
            for rule, words in faults(record):
                self.note(record.row, rule, words)
            if record.fault is None:
                self._contents.add(record.row, _content(record))
                if record.id is not None:
                    self._ids.add(record.row, record.id)
        readable = [record for record in records if record.fault is None]
        self._names(readable)
        self._lengths(readable)
        if self.checks.num_open is None:
            self._open(self._not_opened(readable))
        else:
            for record in readable:
                for image in record.images:
                    self._drawn.offer(record.row, image)

    def finish(self) -> None:
        self._open(self._drawn.all())
        for repeats, rule in ((self._ids, Rule.REPEATED_ID), (self._contents, Rule.REPEATED)):
            for row, first in repeats.found():
                self.note(row, rule, f"as in row {first}")
        if self._tokens:
            low, middle, high, top = np.percentile(np.asarray(self._tokens), (0, 50, 99, 100)).astype(int).tolist()
            self.result.tokens = {"min": low, "median": middle, "p99": high, "max": top}

    def note(self, row: int, rule: Rule, words: str) -> None:
        found = self.result.found.setdefault(rule, Found(example=words))
        found.num += 1
        if len(found.rows) < NUM_EXAMPLES:
            found.rows.append(row)
        if self.on_finding is not None:
            self.on_finding(row, rule, words)

    def _names(self, records: list[Record]) -> None:
        """Images of a local folder that are not there, and those whose name says that they are for evaluation."""
        named = [(record.row, image) for record in records for image in record.images if image.name]
        if (evaluation := self.checks.evaluation) is not None:
            hits = evaluation.named([str(image.name) for _, image in named])
            for (row, image), hit in zip(named, hits, strict=True):
                if hit:
                    self.note(row, Rule.EVALUATION, f"{image.name} is on the list")
        for row, image in named if self.checks.num_open is not None else ():
            where = address_of(image, self.checks.folder)
            if where is not None and "://" not in where and not _is_there(where):
                self.note(row, Rule.MISSING, f"there is no file {where}")

    def _lengths(self, records: list[Record]) -> None:
        if self.checks.count_tokens is None or not records:
            return
        texts = ["\n".join(turn.text for turn in record.turns) for record in records]
        for record, num in zip(records, self.checks.count_tokens(texts), strict=True):
            total = num + self.checks.tokens_per_image * len(record.images)
            self._tokens.append(total)
            if self.checks.max_tokens is not None and total > self.checks.max_tokens:
                self.note(record.row, Rule.TOO_LONG, f"{total} tokens")

    def _not_opened(self, records: list[Record]) -> Iterator[tuple[int, ImageReference]]:
        for record in records:
            for image in record.images:
                if image.is_inline:
                    yield record.row, image
                elif (known := _hash(str(image.name))) not in self._opened:
                    self._opened.add(known)
                    yield record.row, image

    def _open(self, images: Iterable[tuple[int, ImageReference]]) -> None:
        evaluation = self.checks.evaluation
        for row, opened in open_all(images, self.checks.folder):
            self.result.num_opened += 1
            if opened.error is not None:
                if not opened.error.startswith("missing"):
                    self.note(row, Rule.BROKEN, opened.error)
                elif self.checks.num_open is None or "://" in opened.uri:  # of the others `_names` has told
                    self.note(row, Rule.MISSING, opened.error)
            elif evaluation is not None and evaluation.like(opened.phash):
                self.note(row, Rule.EVALUATION, "an image that is evaluated on looks like this one")


def _is_there(path: str) -> bool:
    """Also of a part of a file, FILE#OFFSET+SIZE."""
    return Path(path).is_file() or Path(path.partition("#")[0]).is_file()


class _Drawn:
    """An even sample of a stream, the same each time: the smallest hashes."""

    def __init__(self, num: int) -> None:
        self._num = num
        self._kept: dict[int, tuple[int, ImageReference]] = {}
        self._worst = -1

    def offer(self, row: int, image: ImageReference) -> None:
        if not self._num:
            return
        key = _hash(f"{row} {image.name}")
        if len(self._kept) >= self._num:
            if key > self._worst:
                return
            del self._kept[self._worst]
        self._kept[key] = (row, image)
        self._worst = max(self._kept)

    def all(self) -> list[tuple[int, ImageReference]]:
        return sorted(self._kept.values(), key=lambda one: one[0])


class _Repeats:
    """Which rows have what an earlier row had."""

    def __init__(self) -> None:
        self._rows, self._hashes = array("Q"), array("Q")

    def add(self, row: int, text: str) -> None:
        self._rows.append(row)
        self._hashes.append(_hash(text))

    def found(self) -> Iterator[tuple[int, int]]:
        """(row, the first row that was like it), in the order of the rows."""
        if not self._rows:
            return
        hashes: NDArray[np.uint64] = np.asarray(self._hashes, np.uint64)
        _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
        for position in np.flatnonzero(first[inverse] != np.arange(len(hashes))):
            yield self._rows[position], self._rows[first[inverse[position]]]


def _content(record: Record) -> str:
    images = [image.name if image.data is None else hash(image.data) for image in record.images]
    return repr((images, record.turns, record.rejected))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def as_json(found: Validation) -> dict[str, Any]:
    return {
        "ok": found.is_ok,
        "num_rows": found.num_rows,
        "num_turns": found.num_turns,
        "num_images": found.num_images,
        "num_opened": found.num_opened,
        "tokens": found.tokens,
        "found": {
            rule.value: {"num": one.num, "rows": one.rows, "example": one.example} for rule, one in found.found.items()
        },
    }
