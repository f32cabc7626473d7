"""One decision about a whole data set: which of its conversations are kept, and for each of the others why not.

First every conversation is looked at by itself (filters.py, and whether its image is one of an evaluation set), then
those that are left all together (corpus.py). One verb does all of it, since what is a duplicate, or too much, depends
on what is left by the rest. Of a conversation a few numbers are held, of questions the different ones, so that a
million conversations take some hundred megabytes; the rows are read once and stay as they are.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vigc.platform.dataset.store import Store
from vigc.platform.quality.corpus import Conversations, CorpusFilter, Mask, corpus_filters
from vigc.platform.quality.filters import Filter, JudgedConversation, filters_for, words_of
from vigc.platform.quality.questions import Embed, form_of, same_questions
from vigc.platform.quality.settings import FilterSettings
from vigc.platform.quality.similar_images import Hashes, hashes_of, near_duplicates, nearest
from vigc.platform.records import ConfigError, Kind, Stop, Verdict

COLUMNS = ["image_id", "pass", "phash", "conversations"]
BATCH = 10_000
LIKE_EVALUATION = "like_evaluation_image"
_SAYS = {"yes": 1, "no": -1}


@dataclass(frozen=True)
class Evaluation:
    """Images that no row may be made of."""

    source: str
    image_ids: list[str]
    hashes: Hashes
    num_unreadable: int


@dataclass
class FilterResult:
    """What was decided. `about` goes into verdicts/NNN.json and the summary."""

    about: dict[str, Any]
    _held: _Held
    _order: NDArray[np.int64]
    _names: list[str]
    _reasons: NDArray[np.int64]  # a bit for each name

    def verdicts(self) -> Iterator[Mapping[str, list[Any]]]:
        """The rejected ones as columns of `verdicts.VERDICT`, by image_id and kind."""
        rejected = self._order[self._reasons[self._order] != 0]
        said: dict[int, list[str]] = {}
        for start in range(0, len(rejected), BATCH):
            some = rejected[start : start + BATCH].tolist()
            for bits in {int(self._reasons[one]) for one in some} - said.keys():
                said[bits] = [name for place, name in enumerate(self._names) if bits >> place & 1]
            held = self._held
            yield {
                "image_id": [held.image_ids[held.image[one]] for one in some],
                "kind": [held.kinds[held.kind[one]] for one in some],
                "pass": [held.passes[held.pass_[one]] for one in some],
                "verdict": [Verdict.REJECTED.value] * len(some),
                "reasons": [said[int(self._reasons[one])] for one in some],
            }


def decide(
    store: Store,
    settings: FilterSettings,
    *,
    evaluation: Evaluation | None = None,
    embed: Embed | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> FilterResult:
    """Reads the data set once and decides about all of it.

    Args:
        evaluation: conversations about images like these are rejected.
        embed: for `settings.similar_meaning`.
        on_progress: called with the rows that were looked at and all rows, after each batch.
    Raises:
        ConfigError: a filter cannot be had, or cannot be met.
    """
    filters, later = filters_for(settings), corpus_filters(settings)
    names = [*(one.name for one in filters), *([LIKE_EVALUATION] if evaluation else []), *(one.name for one in later)]
    if unknown := set(settings.off) - known_filters():
        raise ConfigError(f"--off {min(unknown)}: no such filter; there are {', '.join(sorted(known_filters()))}.")
    held = _Held(filters)
    num_rows = sum(one.num_requested for one in store.existing_passes())
    for batch in store.undecided_batches(COLUMNS):
        held.add(batch)
        if on_progress is not None:
            on_progress(held.num_rows, num_rows)
    order, reasons = held.order(), np.array(held.reasons, np.int64)
    counts = [{"name": one.name, "rule": one.rule, "judged": held.judged[one.name]} for one in filters]
    about: dict[str, Any] = {"settings": settings.as_json()}
    if evaluation is not None:
        matches = _matches(held, evaluation, settings.max_distance)
        is_like = np.isin(held.image, list(matches))
        reasons[is_like] |= 1 << names.index(LIKE_EVALUATION)
        counts.append(
            {
                "name": LIKE_EVALUATION,
                "rule": f"its image differs from one of {evaluation.source} by at most {settings.max_distance} bits",
                "judged": int(np.isin(held.image, list(held.hash_of)).sum()),
            }
        )
        about["evaluation_images"] = {
            "source": evaluation.source,
            "num_images": len(evaluation.image_ids),
            "num_unreadable": evaluation.num_unreadable,
            "matches": [
                {"image_id": held.image_ids[image], "like": like, "distance": distance}
                for image, (like, distance) in sorted(matches.items(), key=lambda match: held.image_ids[match[0]])
            ],
        }
    if later:
        _decide_together(held, order, reasons, names, later, settings, embed, counts)
    for place, count in enumerate(counts):
        bit = 1 << place
        count |= {"rejected": int((reasons & bit != 0).sum()), "alone": int((reasons == bit).sum())}
    rejected = int((reasons != 0).sum())
    of_passes = np.bincount(np.array(held.pass_, np.int64), minlength=len(held.passes)).tolist()
    about["judged_of_pass"] = dict(sorted(zip(held.passes, of_passes, strict=True)))
    about |= {"judged": len(reasons), "kept": len(reasons) - rejected, "rejected": rejected, "filters": counts}
    return FilterResult(about, held, order, names, reasons)


def known_filters() -> set[str]:
    """All names that `off` may hold."""
    everything = FilterSettings(min_grounding=0.0, disallowed=("x",), max_opening=1.0, max_yes_no=1.0)
    alone, together = filters_for(everything), corpus_filters(everything)
    return {*(one.name for one in alone), *(one.name for one in together), "language"}


def _decide_together(
    held: _Held,
    order: NDArray[np.int64],
    reasons: NDArray[np.int64],
    names: list[str],
    filters: list[CorpusFilter],
    settings: FilterSettings,
    embed: Embed | None,
    counts: list[dict[str, Any]],
) -> None:
    every = held.conversations(order, reasons == 0, settings, embed)
    left: Mask = reasons[order] == 0
    for one in filters:
        counts.append({"name": one.name, "rule": one.rule, "judged": int((one.judges(every) & left).sum())})
        gone = one.rejects(every, left)
        reasons[order[gone]] |= 1 << names.index(one.name)
        left &= ~gone


@dataclass
class _Held:
    """What is held of the conversations that the model brought to an end."""

    filters: list[Filter]
    num_rows: int = 0
    image_ids: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=lambda: [str(kind) for kind in Kind])
    passes: list[str] = field(default_factory=list)
    hash_of: dict[int, str] = field(default_factory=dict)  # image -> its perceptual hash
    # One for each conversation:
    image: array[int] = field(default_factory=lambda: array("q"))
    kind: array[int] = field(default_factory=lambda: array("q"))
    pass_: array[int] = field(default_factory=lambda: array("q"))
    reasons: array[int] = field(default_factory=lambda: array("q"))  # a bit for each filter that rejects it
    form: array[int] = field(default_factory=lambda: array("q"))
    opening: array[int] = field(default_factory=lambda: array("q"))
    says: array[int] = field(default_factory=lambda: array("q"))
    forms: dict[str, int] = field(default_factory=dict)
    openings: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.judged = {one.name: 0 for one in self.filters}
        self._image_of: dict[str, int] = {}

    def add(self, rows: pa.RecordBatch) -> None:
        self.num_rows += rows.num_rows
        ids, passes, hashes = (rows[name].to_pylist() for name in ("image_id", "pass", "phash"))
        for row, talk in _talks(rows):
            image = self._image_of.setdefault(ids[row], len(self._image_of))
            if image == len(self.image_ids):
                self.image_ids.append(ids[row])
                if hashes[row]:
                    self.hash_of[image] = hashes[row]
            if passes[row] not in self.passes:
                self.passes.append(passes[row])
            self.image.append(image)
            self.kind.append(self.kinds.index(talk.kind))
            self.pass_.append(self.passes.index(passes[row]))
            self.reasons.append(self._judge(talk))
            self.form.append(self.forms.setdefault(form_of(talk.question), len(self.forms)))
            first = " ".join(words_of(talk.question)[:2])
            self.opening.append(self.openings.setdefault(first, len(self.openings)))
            self.says.append(_SAYS.get(talk.answer.partition(" ")[0].strip(",.!").lower(), 0))

    def _judge(self, talk: JudgedConversation) -> int:
        bits = 0
        for place, one in enumerate(self.filters):
            found = one.rejects(talk)
            if found is not None:
                self.judged[one.name] += 1
                bits |= found << place
        return bits

    def order(self) -> NDArray[np.int64]:
        """The order by image_id and kind."""
        rank = np.empty(len(self.image_ids), np.int64)
        rank[sorted(range(len(self.image_ids)), key=self.image_ids.__getitem__)] = np.arange(len(self.image_ids))
        images = rank[np.array(self.image, np.int64)] if len(rank) else rank
        return np.lexsort((np.array(self.kind, np.int64), images))

    def conversations(
        self, order: NDArray[np.int64], left: Mask, settings: FilterSettings, embed: Embed | None
    ) -> Conversations:
        image, kind, form, opening, says = (
            np.array(values, np.int64)[order] for values in (self.image, self.kind, self.form, self.opening, self.says)
        )
        counts = np.bincount(np.array(self.form, np.int64)[left], minlength=len(self.forms))
        meaning = settings.similar_meaning
        same = same_questions(
            list(self.forms),
            counts.tolist(),
            settings.similar_question,
            embed=embed if meaning is not None else None,
            meaning=1.0 if meaning is None else meaning,
        )
        chance = [
            int.from_bytes(hashlib.blake2b(f"{settings.seed}/{self.image_ids[i]}/{k}".encode(), digest_size=8).digest())
            for i, k in zip(image.tolist(), kind.tolist(), strict=True)
        ]
        return Conversations(
            image=image,
            similar_image=self._similar_images(settings.max_distance)[image],
            kind=kind,
            is_description=kind == self.kinds.index(Kind.DETAIL),
            question=same[form],
            opening=opening,
            says=says,
            chance=np.array(chance, np.uint64),
        )

    def _similar_images(self, max_distance: int) -> NDArray[np.int64]:
        similar = np.arange(len(self.image_ids), dtype=np.int64)
        known = np.array(sorted(self.hash_of, key=self.image_ids.__getitem__), np.int64)
        if len(known):
            follows = near_duplicates(hashes_of([self.hash_of[image] for image in known.tolist()]), max_distance)
            similar[known] = known[follows]
        return similar


def _matches(held: _Held, evaluation: Evaluation, max_distance: int) -> dict[int, tuple[str, int]]:
    """image -> the evaluation image that it is like, and by how many bits they differ."""
    known = list(held.hash_of)
    near = nearest(hashes_of([held.hash_of[image] for image in known]), evaluation.hashes, max_distance)
    return {known[number]: (evaluation.image_ids[other], distance) for number, other, distance in near}


def _talks(rows: pa.RecordBatch) -> Iterator[tuple[int, JudgedConversation]]:
    """The conversations that the model brought to an end, each with the number of its row."""
    lists = rows["conversations"]
    parents, spoken = pc.list_parent_indices(lists), lists.flatten()
    chosen = pc.equal(spoken.field("status"), Verdict.KEPT.value)
    parents, spoken = parents.filter(chosen), spoken.filter(chosen)
    texts = (spoken.field(name).to_pylist() for name in ("kind", "question", "answer"))
    measured = (_is_cut(spoken.field("steps")), *_of_sentences(spoken.field("sentences")))
    for row, *values in zip(parents.to_pylist(), *texts, *measured, strict=True):
        yield row, JudgedConversation(*values)


def _is_cut(steps: pa.ListArray) -> list[bool]:
    flat = steps.flatten()
    stops = pc.and_(pc.equal(flat.field("stop"), Stop.LENGTH.value), pc.not_equal(flat.field("kept"), ""))
    of = pc.list_parent_indices(steps).to_numpy()
    cut = np.zeros(len(steps), bool)
    cut[of] = stops.to_numpy(zero_copy_only=False)  # of several for one place, the last counts
    return cut.tolist()


def _of_sentences(sentences: pa.ListArray) -> tuple[list[int | None], list[float | None]]:
    """How many different objects are absent, and the least grounding."""
    num, of, flat = len(sentences), pc.list_parent_indices(sentences).to_numpy(), sentences.flatten()
    lists = flat.field("objects_absent")
    is_judged = np.zeros(num, bool)
    is_judged[of[pc.is_valid(lists).to_numpy(zero_copy_only=False)]] = True
    names = lists.flatten().dictionary_encode()
    codes = names.indices.to_numpy().astype(np.int64)
    width = max(1, len(names.dictionary))
    pairs = np.unique(of[pc.list_parent_indices(lists).to_numpy()].astype(np.int64) * width + codes)
    absent = np.bincount(pairs // width, minlength=num)
    grounding = np.full(num, np.inf)
    values = flat.field("grounding")
    is_there = pc.is_valid(values).to_numpy(zero_copy_only=False)
    np.minimum.at(grounding, of[is_there], values.drop_null().to_numpy())
    return (
        [number if judged else None for number, judged in zip(absent.tolist(), is_judged.tolist(), strict=True)],
        [value if value < np.inf else None for value in grounding.tolist()],
    )
