"""Decisions that need the whole data set: what is said twice, or too often.

Each is made over the conversations that are left by those before it, in the order of `decide`. Of several that ask the
same, the first by image_id and kind stays; of too many, those that chance picks, the same with the same seed however
the rows lie.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vigc.platform.quality.filters import FilterRule
from vigc.platform.quality.settings import FilterSettings
from vigc.platform.records import ConfigError

Mask = NDArray[np.bool_]
Numbers = NDArray[np.int64]

ALWAYS_ALLOWED = 100  # times the same question


@dataclass(frozen=True)
class Conversations:
    """Numbers that are equal where what they stand for is; one for each conversation, by image_id and kind."""

    image: Numbers
    similar_image: Numbers  # equal for near-duplicate images, too
    kind: Numbers
    is_description: Mask  # asked for in much the same words by design: not too often, whatever the words
    question: Numbers
    opening: Numbers  # the first two words of the question
    says: Numbers  # 1 where the answer begins with yes, -1 with no, 0 with neither
    chance: NDArray[np.uint64]


class CorpusFilter(FilterRule):
    def judges(self, all_of: Conversations) -> Mask:
        """The conversations that it looks at."""
        return np.ones(len(all_of.image), bool)

    @abstractmethod
    def rejects(self, all_of: Conversations, left: Mask) -> Mask:
        """
        Args:
            left: those that are left, of which some are to go.
        """


class SameQuestion(CorpusFilter):
    name = "same_question"
    template = "another kind asks the same of this image"

    def rejects(self, all_of: Conversations, left: Mask) -> Mask:
        return _repeated(all_of.image, all_of.question, left)


@dataclass(frozen=True)
class SameQuestionOfSimilarImage(CorpusFilter):
    name = "similar_image"
    template = "the same is asked of an image that differs by at most {max_distance} of 64 bits"
    max_distance: int

    def rejects(self, all_of: Conversations, left: Mask) -> Mask:
        return _repeated(all_of.similar_image, all_of.question, left)


@dataclass(frozen=True)
class AskedTooOften(CorpusFilter):
    name = "asked_too_often"
    template = f"more than {{share:.1%}} of the kind ask the same; {ALWAYS_ALLOWED} always may"
    share: float

    def judges(self, all_of: Conversations) -> Mask:
        return ~all_of.is_description

    def rejects(self, all_of: Conversations, left: Mask) -> Mask:
        left = left & ~all_of.is_description
        most = np.maximum(ALWAYS_ALLOWED, np.bincount(all_of.kind[left], minlength=256) * self.share)
        return _beyond(_joint(all_of.kind, all_of.question), most[all_of.kind], all_of.chance, left)


@dataclass(frozen=True)
class SameOpening(CorpusFilter):
    name = "opening"
    template = "more than {share:.1%} of the kind begin with the same two words"
    share: float

    def judges(self, all_of: Conversations) -> Mask:
        return ~all_of.is_description

    def rejects(self, all_of: Conversations, left: Mask) -> Mask:
        left = left & ~all_of.is_description
        most = np.zeros(256)
        for kind in np.unique(all_of.kind[left]):
            _, counts = np.unique(all_of.opening[left & (all_of.kind == kind)], return_counts=True)
            most[kind] = self._most(counts)
        return _beyond(_joint(all_of.kind, all_of.opening), most[all_of.kind], all_of.chance, left)

    def _most(self, counts: Numbers) -> int:
        """How many may begin alike, so that they are no more than the share of what is then left."""
        if self.share * len(counts) < 1:
            raise ConfigError(
                f"--max-opening {self.share:g}: the questions of a kind begin in only {len(counts)} ways. "
                f"The least that is possible is {1 / len(counts):.3f}."
            )
        total, before = int(counts.sum()), -1
        while total != before:
            most = max(1, int(self.share * total))
            total, before = int(np.minimum(counts, most).sum()), total
        return most


@dataclass(frozen=True)
class YesNo(CorpusFilter):
    name = "yes_no"
    template = "of the answers that begin with yes or no, more than {share:.0%} say the same"
    share: float

    def judges(self, all_of: Conversations) -> Mask:
        found: Mask = all_of.says != 0
        return found

    def rejects(self, all_of: Conversations, left: Mask) -> Mask:
        said = left & (all_of.says != 0)
        yes, no = (int((all_of.says[said] == one).sum()) for one in (1, -1))
        if not yes or not no or self.share == 1:
            return np.zeros(len(left), bool)  # without the other side there is no balance to reach
        ratio = self.share / (1 - self.share)
        most = np.where(all_of.says == 1, max(1, int(ratio * no)), max(1, int(ratio * yes)))
        return _beyond(all_of.says, most, all_of.chance, said)


def corpus_filters(settings: FilterSettings) -> list[CorpusFilter]:
    found: list[CorpusFilter] = [
        SameQuestion(),
        SameQuestionOfSimilarImage(settings.max_distance),
        AskedTooOften(settings.max_same_question),
    ]
    if settings.max_opening is not None:
        found.append(SameOpening(settings.max_opening))
    if settings.max_yes_no is not None:
        found.append(YesNo(settings.max_yes_no))
    return [one for one in found if one.name not in settings.off]


def _joint(first: Numbers, second: Numbers) -> Numbers:
    return first * (int(second.max(initial=0)) + 1) + second


def _repeated(places: Numbers, questions: Numbers, left: Mask) -> Mask:
    """All but the first of those that are left with the same place and question."""
    which = np.flatnonzero(left)
    _, first = np.unique(_joint(places, questions)[which], return_index=True)
    gone = left.copy()
    gone[which[first]] = False
    return gone


def _beyond(groups: Numbers, most: NDArray[np.float64] | Numbers, chance: NDArray[np.uint64], left: Mask) -> Mask:
    """Those that are left beyond the most that their group may have, by chance."""
    which = np.flatnonzero(left)
    order = which[np.lexsort((chance[which], groups[which]))]
    ordered = groups[order]
    begins = np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 1))
    lengths = np.diff([*begins, len(ordered)])
    rank = np.arange(len(ordered)) - np.repeat(begins, lengths)
    gone = np.zeros(len(left), bool)
    gone[order[rank >= most[order]]] = True
    return gone
