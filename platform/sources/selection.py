"""Some images of a source: without those of a list, the first so many, a sample, one of several shards.

Applied in this order: exclude, limit, sample, shard. A sample is the images with the smallest hash of seed and
image_id, so it is the same however the source is ordered; the order stays the source's. Shards are consecutive parts,
as even as can be, and together they are the whole. What is chosen is found once, from the ids alone.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vigc.platform.records import ConfigError, InputError
from vigc.platform.sources.addresses import absolute, open_stream, readable, suffix
from vigc.platform.sources.base import Source
from vigc.platform.sources.parquet_files import SUFFIXES as PARQUET

IDS_AT_ONCE = 200_000

# COCO's file names end in the image's number: 000000000042.jpg, COCO_train2014_000000000042.jpg.
_COCO_NUMBER = r"(?:^|_)(?P<number>\d{12})$"


@dataclass(frozen=True, slots=True)
class _Chosen:
    positions: NDArray[np.int64]  # in the source, ascending
    num_excluded: int
    num_unmatched: int  # entries of the list that no image answers to


class Selection(Source):
    """Raises InputError, when it is first read, if nothing is left."""

    def __init__(
        self,
        source: Source,
        *,
        limit: int | None = None,
        sample: int | None = None,
        seed: int = 0,
        shard: str | None = None,
        exclude: str | None = None,
    ) -> None:
        """
        Args:
            shard: "i/n", i from 1.
            exclude: a file of ids: one a line, JSON (a list, or an object of lists), or a column `image_id` in Parquet
                or CSV. An id is an image_id, the last part of one with or without suffix, or a COCO image number.
        Raises:
            ConfigError: a number that cannot be.
            InputError: the file of ids cannot be read.
        """
        self.name = source.name
        self._source, self._limit, self._sample, self._seed = source, limit, sample, seed
        for name, value in (("--limit", limit), ("--sample", sample)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} {value}: at least one image is needed.")
        self._shard = None if shard is None else _shard(shard)
        self._exclude = None if exclude is None else absolute(exclude)
        self._entries = None if exclude is None else read_ids(absolute(exclude))

    @property
    def num_excluded(self) -> int:
        return self._chosen.num_excluded

    @property
    def num_unmatched(self) -> int:
        return self._chosen.num_unmatched

    def describe(self) -> str:
        parts = [self._source.describe()]
        if self._exclude is not None:
            parts.append(f"without those of {self._exclude}")
        if self._limit is not None:
            parts.append(f"the first {self._limit}")
        if self._sample is not None:
            parts.append(f"a sample of {self._sample} (seed {self._seed})")
        if self._shard is not None:
            parts.append(f"shard {self._shard[0]}/{self._shard[1]}")
        return "; ".join(parts)

    def place(self, index: int) -> str:
        return self._source.place(int(self._chosen.positions[index]))

    def num_images(self) -> int:
        return len(self._chosen.positions)

    def categories(self) -> list[str] | None:
        return self._source.categories()

    def are_scenes(self) -> bool:
        return self._source.are_scenes()

    def tables(self) -> Iterator[pa.Table]:
        positions, first = self._chosen.positions, 0
        for table in self._source.tables():
            here = positions[slice(*np.searchsorted(positions, [first, first + len(table)]))] - first
            first += len(table)
            if len(here):
                yield table if len(here) == len(table) else table.take(pa.array(here))
            if first > positions[-1]:
                return

    @cached_property
    def _chosen(self) -> _Chosen:
        kept: list[NDArray[np.int64]] = []
        hashes: list[NDArray[np.uint64]] = []
        first = num_kept = num_excluded = 0
        excluded = None if self._entries is None else IdList(self._entries)
        for ids in self._ids():
            rows = np.arange(len(ids))
            if excluded is not None:
                rows = rows[~excluded.among(ids)]
                num_excluded += len(ids) - len(rows)
            if self._limit is not None:
                rows = rows[: self._limit - num_kept]
            kept.append(rows + first)
            num_kept += len(rows)
            first += len(ids)
            if self._sample is not None:
                hashes.append(_hashes(ids.take(pa.array(rows)), self._seed))
            # The list of ids is matched against all of the source, to tell which entries answer to nothing.
            if self._limit is not None and num_kept >= self._limit and excluded is None:
                break
        positions = np.concatenate([np.zeros(0, np.int64), *kept])
        if not len(positions):
            raise InputError(
                f"{self._exclude or self._source.describe()}: all {num_excluded} images are excluded, none is left. "
                "Check the list, or leave --exclude out."
            )
        if self._sample is not None:
            positions = np.sort(positions[np.argsort(np.concatenate(hashes), kind="stable")[: self._sample]])
        if self._shard is not None:
            number, of = self._shard
            start, stop = (len(positions) * one // of for one in (number - 1, number))
            if start == stop:
                raise InputError(f"--shard {number}/{of}: no image, of {len(positions)}. Make fewer shards.")
            positions = positions[start:stop]
        return _Chosen(positions, num_excluded, 0 if excluded is None else excluded.num_unmatched)

    def _ids(self) -> Iterator[pa.Array]:
        """Many at a time where they are looked up, because each look-up goes through the whole list once."""
        at_least = 0 if self._entries is None else IDS_AT_ONCE
        waiting: list[pa.Array] = []
        for table in self._source.tables():
            waiting += table["image_id"].chunks
            if sum(map(len, waiting)) >= at_least:
                yield pa.concat_arrays(waiting)
                waiting = []
        if waiting:
            yield pa.concat_arrays(waiting)


class IdList:
    """Entries of a list that ids are looked up in, and which of them have been met."""

    def __init__(self, entries: pa.Array) -> None:
        self._entries = entries
        self._met = np.zeros(len(entries), bool)
        digits = pc.match_substring_regex(entries, r"^\d+$").to_numpy(zero_copy_only=False)
        self._number_at = np.flatnonzero(digits)
        self._numbers = _numbers(entries.take(pa.array(self._number_at)))

    @property
    def num_unmatched(self) -> int:
        return int((~self._met).sum())

    def among(self, ids: pa.Array) -> NDArray[np.bool_]:
        last = pc.replace_substring_regex(ids, r"^.*/", "")
        stems = pc.replace_substring_regex(last, r"\.[^.]*$", "")
        numbers = _numbers(pc.struct_field(pc.extract_regex(stems, _COCO_NUMBER), "number"))
        found = [pc.index_in(names, value_set=self._entries) for names in (ids, last, stems)]
        excluded = np.zeros(len(ids), bool)
        for index in found:
            excluded |= self._meet(index, np.arange(len(self._entries)))
        return excluded | self._meet(pc.index_in(numbers, value_set=self._numbers, skip_nulls=True), self._number_at)

    def _meet(self, index: pa.Array, entry_of: NDArray[np.int64]) -> NDArray[np.bool_]:
        there: NDArray[np.bool_] = index.is_valid().to_numpy(zero_copy_only=False)
        self._met[entry_of[index.drop_null().to_numpy()]] = True
        return there


def _numbers(texts: pa.Array) -> pa.Array:
    """Without their leading zeros, so that 42 is 000000000042."""
    return pc.replace_substring_regex(texts, r"^0+(\d)", r"\1")


def _hashes(ids: pa.Array, seed: int) -> NDArray[np.uint64]:
    key = str(seed).encode()
    found = b"".join(hashlib.blake2b(one.encode(), digest_size=8, key=key).digest() for one in ids.to_pylist())
    return np.frombuffer(found, ">u8").astype(np.uint64)


def _shard(text: str) -> tuple[int, int]:
    number, slash, of = text.partition("/")
    if slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of):
        return int(number), int(of)
    raise ConfigError(f"--shard {text}: write i/n with i from 1 to n, such as 1/4.")


def read_ids(place: str) -> pa.Array:
    """The different entries of a list of ids (`Selection`: exclude), as text."""
    kind = suffix(place)
    if kind in PARQUET or kind == ".csv":
        found = _column(place)
    else:
        with readable(place), open_stream(place) as file:
            data = file.read()
        try:
            found = _listed(json.loads(data)) if kind == ".json" else data.decode("utf-8-sig").split("\n")
        except ValueError as error:
            raise InputError(f"{place}: {error}. Write a JSON list of ids, or an object of such lists.") from error
    entries = pc.utf8_trim_whitespace(pa.array(found, pa.string()))
    entries = pc.unique(entries.filter(pc.not_equal(entries, "")))
    if not len(entries):
        raise InputError(f"{place}: no id in it. Write one a line, or leave --exclude out.")
    return entries


def _column(place: str) -> list[str]:
    import pyarrow.parquet as pq

    with readable(place), open_stream(place) as file:
        try:
            if suffix(place) == ".csv":
                # Not by Arrow, whose threads may outlive an error and end the process with theirs.
                rows = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""))
                if "image_id" not in (rows.fieldnames or ()):
                    raise KeyError
                return [row["image_id"] for row in rows if row["image_id"]]
            table = pq.read_table(file, columns=["image_id"])
            return [str(one) for one in table["image_id"].to_pylist() if one is not None]
        except KeyError as error:
            raise InputError(f"{place}: no column 'image_id'. Name the column of ids so.") from error


def _listed(content: Any) -> list[str]:
    lists = content.values() if isinstance(content, dict) else [content]
    found: list[str] = []
    for one in lists:
        if not isinstance(one, list) or not all(type(entry) in (int, str) for entry in one):
            raise ValueError("not a list of ids")
        found += [str(entry) for entry in one]
    return found
