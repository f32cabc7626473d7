"""What the report shows of the rows: counts over all of them, and the few that are looked at.

One pass over the view, by column, in the memory of one batch: a few tallies, the worst rows so far, and an even sample,
which is the rows with the smallest hash of their image_id, so that the same data give the same report.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from heapq import heappush, heappushpop
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vigc.platform.dataset.store import Store
from vigc.platform.records import RowStatus, Verdict

COLUMNS = ("image_id", "uri", "width", "height", "objects", "status", "error", "objects_present", "conversations")
COLUMNS_OF_ROW = (*COLUMNS, "pass")
MAX_WORDS = 400  # longer answers count as this long
MAX_OPENINGS = 50_000  # different ones that are counted at once
_OPENING = r"^\W*(?P<first>[\w'’-]+)(?:\W+(?P<second>[\w'’-]+))?"

Row = dict[str, Any]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many rows are looked at."""

    num_worst: int = 24
    num_random: int = 24
    num_rejected: int = 12
    num_failed: int = 12


@dataclass(slots=True)
class Gathered:
    openings: Counter[str] = field(default_factory=Counter)  # the first two words of kept questions
    num_questions: int = 0
    words: dict[str, Counts] = field(default_factory=dict)  # "vig", "vic" -> how many answers have so many words
    present: Counter[str] = field(default_factory=Counter)  # category -> images that have it
    named: Counter[str] = field(default_factory=Counter)  # category -> mentions in kept answers
    absent: dict[str, Counter[str]] = field(default_factory=dict)  # "vig", "vic" -> category -> untrue mentions
    worst: list[Row] = field(default_factory=list)
    random: list[Row] = field(default_factory=list)
    rejected: list[Row] = field(default_factory=list)
    failed: list[Row] = field(default_factory=list)


def gather(store: Store, sizes: Sizes, on_progress: Callable[[int], None] | None = None) -> Gathered:
    """Reads all rows once."""
    found = Gathered(
        words={name: np.zeros(MAX_WORDS + 1, np.int64) for name in ("vig", "vic")},
        absent={name: Counter() for name in ("vig", "vic")},
    )
    worst, random = _Best(sizes.num_worst), _Best(sizes.num_random)
    rejected, failed = _Best(sizes.num_rejected), _Best(sizes.num_failed)
    num_rows = 0
    for batch in store.batches(COLUMNS_OF_ROW):
        rows = _BatchRows(batch)
        is_failed = pc.equal(batch["status"], RowStatus.FAILED.value).to_numpy(zero_copy_only=False)
        luck = _hashes(batch["image_id"])
        of, spoken = pc.list_parent_indices(batch["conversations"]), batch["conversations"].flatten()
        is_kept = pc.equal(spoken.field("status"), Verdict.KEPT.value)
        _count(found, batch, spoken.filter(is_kept))
        kept_mask = is_kept.to_numpy(zero_copy_only=False)
        num_kept = np.bincount(of.to_numpy()[kept_mask], minlength=batch.num_rows)
        num_rejected = np.bincount(of.to_numpy()[~kept_mask], minlength=batch.num_rows)
        badness = _badness(of.filter(is_kept).to_numpy(), spoken.filter(is_kept), batch.num_rows)
        worst.offer(badness, rows, np.isfinite(badness))
        random.offer(luck, rows, num_kept > 0)
        rejected.offer(luck, rows, num_rejected > 0)
        failed.offer(luck, rows, is_failed)
        num_rows += batch.num_rows
        if on_progress is not None:
            on_progress(num_rows)
    found.worst, found.random = worst.rows(), random.rows()
    found.rejected, found.failed = rejected.rows(), failed.rows()
    return found


def _count(found: Gathered, batch: pa.RecordBatch, kept: pa.StructArray) -> None:
    opening = pc.extract_regex(pc.utf8_lower(kept.field("question")), _OPENING)
    words = pc.binary_join_element_wise(
        pc.struct_field(opening, "first"), pc.fill_null(pc.struct_field(opening, "second"), ""), " "
    )
    found.openings.update(_value_counts(pc.utf8_trim_whitespace(words)))
    found.num_questions += len(words) - words.null_count
    if len(found.openings) > MAX_OPENINGS:
        found.openings = Counter(dict(found.openings.most_common(MAX_OPENINGS // 2)))
    found.present.update(_value_counts(pc.list_flatten(batch["objects_present"])))
    for name, text, sentences in (("vig", "vig_answer", "vig_sentences"), ("vic", "answer", "sentences")):
        answers = kept.field(text)
        lengths = pc.count_substring_regex(answers.filter(pc.not_equal(answers, "")), r"\S+").to_numpy()
        found.words[name] += np.bincount(np.minimum(lengths, MAX_WORDS), minlength=MAX_WORDS + 1)
        flat = kept.field(sentences).flatten()
        found.absent[name].update(_value_counts(flat.field("objects_absent").flatten()))
        if name == "vic":
            found.named.update(_value_counts(flat.field("objects_named").flatten()))


def _badness(of: Counts, kept: pa.StructArray, num_rows: int) -> NDArray[np.float64]:
    """For each row how untrue its worst kept answer is: absent objects first, then the least grounded sentence.

    Minus infinity where nothing was found or measured.
    """
    lists = kept.field("sentences")
    sentences = lists.flatten()
    answer_of = pc.list_parent_indices(lists).to_numpy()
    absent = sentences.field("objects_absent")
    absent_of = answer_of[pc.list_parent_indices(absent).to_numpy()]
    num_absent = np.bincount(absent_of, minlength=len(kept)).astype(np.float64)
    grounding = sentences.field("grounding")
    is_measured = pc.is_valid(grounding).to_numpy(zero_copy_only=False)
    least = np.full(len(kept), np.inf)
    np.minimum.at(least, answer_of[is_measured], grounding.drop_null().to_numpy())
    doubt = np.where(np.isfinite(least), -least, -np.inf)
    score = np.where(num_absent > 0, 1000 * num_absent + np.where(np.isfinite(doubt), doubt, 0), doubt)
    worst = np.full(num_rows, -np.inf)
    np.maximum.at(worst, of, score)
    return worst


class _BatchRows:
    """Rows of a batch as dicts, made when they are asked for."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._batch = batch

    def __getitem__(self, position: int) -> Row:
        row: Row = self._batch.slice(position, 1).to_pylist()[0]
        return row


class _Best:
    """The rows with the highest scores so far; of an image that comes twice, the better row."""

    def __init__(self, num: int) -> None:
        self._num = num
        self._kept: list[tuple[float, str, int, Row]] = []
        self._count = 0

    def offer(self, scores: NDArray[np.float64], rows: _BatchRows, is_candidate: NDArray[np.bool_]) -> None:
        candidates = np.flatnonzero(is_candidate)
        for position in candidates[np.argsort(-scores[candidates], kind="stable")][: self._num]:
            score = float(scores[position])
            if len(self._kept) >= self._num and score <= self._kept[0][0]:
                return
            row = rows[int(position)]
            self._count += 1
            entry = (score, str(row["image_id"]), self._count, row)
            if len(self._kept) < self._num:
                heappush(self._kept, entry)
            else:
                heappushpop(self._kept, entry)

    def rows(self) -> list[Row]:
        """The rows, the best first."""
        return [row for _, _, _, row in sorted(self._kept, key=lambda entry: (-entry[0], entry[1]))]


def _hashes(ids: pa.Array) -> NDArray[np.float64]:
    found = b"".join(hashlib.blake2b(one.encode(), digest_size=8).digest() for one in ids.to_pylist())
    return np.frombuffer(found, ">u8").astype(np.float64)


def _value_counts(values: pa.Array) -> Mapping[str, int]:
    counted = pc.value_counts(values.drop_null())
    return dict(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True))
