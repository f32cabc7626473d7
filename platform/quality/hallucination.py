"""Hallucination in a data set: what its rows say about the objects they name, added up before and after VIC.

Everything was written down with the rows (`presence.NameObjects`); here it is only counted, by column, so that a
million rows take seconds and the memory of one batch. VIG's answer and the final one are compared over the same
conversations: those of annotated images that came to a question and an answer, whatever was decided about them
afterwards. `kept` is the final answers that are left when verdicts have been applied.

Bias is seen in pairs of objects: when two are named together more often than their frequencies let expect, and more so
than they are found together, the texts follow habit instead of the image. A lift is how many times as often as by
chance, within texts of the same kind.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vigc.platform.quality.chair import COUNTS, NUM_RESAMPLES, ChairTally
from vigc.platform.quality.presence import LIMIT
from vigc.platform.records import Verdict
from vigc.platform.vocabulary import Vocabulary

COLUMNS = ["objects_present", "conversations"]
VIG, VIC, KEPT = "vig", "vic", "kept"
ANNOTATED = "annotated"
NUM_PAIRS = 10
MIN_PAIR = 5  # texts that name both; below, a lift is noise
NUM_RESAMPLES_OF_GROUPS = 200
TEXTS_AT_ONCE = 8192  # multiplied at once: small products mostly wait for a busy machine's threads

Codes = NDArray[np.int64]


class Hallucination:
    """A tally over batches of rows."""

    def __init__(self, vocabularies: Iterable[Vocabulary]) -> None:
        """
        Args:
            vocabularies: those that the rows' objects are named in; mostly one.
        """
        every = list({one.hash: one for one in vocabularies}.values())
        self._names = [one.name for one in every]
        self._categories = list(dict.fromkeys(category for one in every for category in one.categories))
        code = {category: number for number, category in enumerate(self._categories)}
        self._special = {code[g]: [code[s] for s in special] for one in every for g, special in one.covers.items()}
        self._value_set = pa.array(self._categories, pa.string())
        self._tallies: dict[tuple[str, str, str], ChairTally] = defaultdict(ChairTally)  # (group, kind, answer)
        # By what is named (an answer, or ANNOTATED) and kind: kinds differ in how much they name at all.
        self._pairs: dict[tuple[str, str], _Pairs] = defaultdict(lambda: _Pairs(len(self._categories)))

    def add(self, committed: pa.RecordBatch, decided: pa.RecordBatch, groups: Sequence[str] | None = None) -> None:
        """
        Args:
            committed: rows with COLUMNS, conversations with the status they were committed with.
            decided: the same rows after the verdicts.
            groups: for each row what it belongs to, for tables of parts.
        """
        rows, spoken = _conversations(committed)
        _, after = _conversations(decided)
        is_judged = pc.and_(
            pc.equal(spoken["status"], Verdict.KEPT.value), pc.is_valid(committed["objects_present"]).take(rows)
        )
        is_kept = pc.equal(after["status"], Verdict.KEPT.value).filter(is_judged).to_numpy(zero_copy_only=False)
        rows, spoken = rows.filter(is_judged), spoken.filter(is_judged)
        if not len(rows):
            return
        present = self._present(committed["objects_present"].take(rows))
        kinds = np.array(spoken["kind"].to_pylist())
        answered = pc.not_equal(spoken["vig_answer"], "").to_numpy(zero_copy_only=False)
        of = np.full(len(rows), "") if groups is None else np.array(groups)[rows.to_numpy()]
        self._add_pairs(ANNOTATED, present, kinds)
        for answer, text, sentences, is_there in (
            (VIG, "vig_answer", "vig_sentences", answered),
            (VIC, "answer", "sentences", np.ones(len(rows), bool)),
        ):
            counts, named = self._counts(spoken[text], spoken[sentences], present)
            self._add_pairs(answer, named, kinds)
            self._tally(counts, of, kinds, answer, is_there)
            if answer == VIC:
                self._tally(counts, of, kinds, KEPT, is_kept)

    def metrics(self) -> dict[str, Any]:
        """For summary.json: rates as fractions, each with its interval; None where there is nothing to divide by."""
        return {
            "vocabulary": ", ".join(self._names),
            "limit": LIMIT,
            "kinds": self._kinds("", NUM_RESAMPLES),
            "pairs_named_more_than_annotated": self._stereotypes(),
        }

    def metrics_of_groups(self) -> dict[str, Any]:
        """For each group the metrics of its kinds."""
        names = sorted({group for group, _, _ in self._tallies})
        return {group: self._kinds(group, NUM_RESAMPLES_OF_GROUPS) for group in names}

    def _kinds(self, group: str, num_resamples: int) -> dict[str, Any]:
        made: dict[str, dict[str, Any]] = {}
        for (of, kind, answer), tally in sorted(self._tallies.items()):
            if of == group:
                made.setdefault(kind, {})[answer] = asdict(tally.metrics(num_resamples))
        return made

    def _tally(
        self, counts: NDArray[np.float64], of: Any, kinds: Any, answer: str, is_there: NDArray[np.bool_]
    ) -> None:
        for group in np.unique(of):
            for kind in np.unique(kinds):
                chosen = (of == group) & (kinds == kind) & is_there
                if chosen.any():
                    self._tallies[str(group), str(kind), answer].add(counts[chosen])

    def _present(self, lists: pa.ListArray) -> Codes:
        """Pairs of text and category as one number each, ascending."""
        codes = pc.index_in(lists.flatten(), value_set=self._value_set)
        return self._keys(pc.list_parent_indices(lists).to_numpy(), codes)

    def _counts(self, texts: pa.Array, sentences: pa.ListArray, present: Codes) -> tuple[NDArray[np.float64], Codes]:
        """The columns of COUNTS for each text, and what it names as pairs of text and category."""
        num, width = len(texts), len(self._categories)
        text_of = pc.list_parent_indices(sentences).to_numpy()
        flat = sentences.flatten()

        def mentions(name: str) -> tuple[Codes, pa.Array]:
            lists = flat.field(name)
            return text_of[pc.list_parent_indices(lists).to_numpy()], lists.flatten()

        of_named, named = mentions("objects_named")
        of_absent, _ = mentions("objects_absent")
        keys = self._keys(of_named, pc.index_in(named, value_set=self._value_set))
        meant = [keys]
        for general, special in self._special.items():
            said = keys[keys % width == general] - general
            meant += [said + one for one in special]
        found = np.intersect1d(np.concatenate(meant), present)
        absent = np.bincount(of_absent, minlength=num)
        columns = {
            "texts": np.ones(num),
            "words": pc.count_substring_regex(texts, r"\S+").to_numpy(),
            "mentions": np.bincount(of_named, minlength=num),
            "absent": absent,
            "is_wrong": absent > 0,
            "present": np.bincount(present // width, minlength=num),
            "found": np.bincount(found // width, minlength=num),
        }
        return np.stack([columns[name].astype(np.float64) for name in COUNTS], axis=1), keys

    def _keys(self, texts: NDArray[Any], codes: pa.Array) -> Codes:
        known = pc.is_valid(codes).to_numpy(zero_copy_only=False)
        numbers = pc.fill_null(codes, 0).to_numpy().astype(np.int64)
        keys: Codes = np.unique(texts.astype(np.int64)[known] * len(self._categories) + numbers[known])
        return keys

    def _add_pairs(self, name: str, keys: Codes, kinds: Any) -> None:
        there = np.zeros((len(kinds), len(self._categories)), bool)
        there.flat[keys] = True
        for kind in np.unique(kinds):
            self._pairs[name, str(kind)].add(there[kinds == kind])

    def _together(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """How many texts name each two categories, and how many would by chance."""
        size = len(self._categories)
        together, chance = np.zeros((size, size)), np.zeros((size, size))
        for (of, _), pairs in self._pairs.items():
            if of == name:
                together += pairs.together()
                chance += pairs.by_chance()
        return together, chance

    def _stereotypes(self) -> list[dict[str, Any]]:
        """The pairs that final answers name together most beyond what is annotated."""
        counts = {name: self._together(name) for name in (ANNOTATED, VIG, VIC)}
        lifts = {
            name: np.divide(together, chance, out=np.zeros_like(chance), where=chance > 0)
            for name, (together, chance) in counts.items()
        }
        together, chance = counts[VIC]
        expected = lifts[ANNOTATED] * chance
        excess = np.triu((together - expected) / np.sqrt(expected + 1), k=1)
        excess[together < MIN_PAIR] = 0
        order = np.argsort(-excess, axis=None, kind="stable")[:NUM_PAIRS]
        return [
            {
                "objects": [self._categories[first], self._categories[second]],
                "num_named": int(together[first, second]),
                "num_annotated": int(counts[ANNOTATED][0][first, second]),
                **{f"lift_{name}": float(lift[first, second]) for name, lift in lifts.items()},
            }
            for first, second in (divmod(int(place), len(self._categories)) for place in order)
            if excess[first, second] > 0
        ]


class _Pairs:
    """How often categories come, and come together, in the same text."""

    def __init__(self, num_categories: int) -> None:
        self._num = 0
        self._together = np.zeros((num_categories, num_categories))
        self._waiting: list[NDArray[np.bool_]] = []

    def add(self, there: NDArray[np.bool_]) -> None:
        """
        Args:
            there: (texts, categories), whether a text names a category.
        """
        self._num += len(there)
        self._waiting.append(there)
        if sum(map(len, self._waiting)) >= TEXTS_AT_ONCE:
            self._count()

    def together(self) -> NDArray[np.float64]:
        """(categories, categories); on the diagonal, how often each comes."""
        self._count()
        return self._together

    def by_chance(self) -> NDArray[np.float64]:
        """How often two would come together if neither cared for the other."""
        each = np.diag(self.together())
        expected: NDArray[np.float64] = np.outer(each, each) / max(1, self._num)
        return expected

    def _count(self) -> None:
        if self._waiting:
            there = np.concatenate(self._waiting).astype(np.float32)
            self._together += there.T @ there
            self._waiting.clear()


def _conversations(rows: pa.RecordBatch) -> tuple[pa.Array, pa.RecordBatch]:
    """For each conversation the number of its row, and its columns."""
    lists = rows["conversations"]
    return pc.list_parent_indices(lists), pa.RecordBatch.from_struct_array(lists.flatten())
