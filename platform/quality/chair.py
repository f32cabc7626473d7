"""CHAIR: how often texts name objects that are not in their image.

A cut looks like a correction to a rate of hallucination alone, so `Chair` always carries recall and length beside it.
Intervals are the percentile bootstrap over texts; where no text is wrong they collapse to nothing, so read the number
of texts with them. A tally takes texts as they come, millions of them, in the same few hundred kilobytes. Known limit:
boxes are incomplete, so "absent" may be unlabelled; `presence.LIMIT` is the sentence that goes with the metrics
wherever they are shown. Source: Rohrbach et al., "Object Hallucination in Image Captioning" (arXiv 1809.02156), with
the project's own lists of words.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vigc.platform.quality.mentions import ObjectFinder, distinct

NUM_RESAMPLES = 1000
MAX_GROUPS = 4096
_LEVEL = (2.5, 97.5)  # percentiles: a 95 % interval


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """As a difference: whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True)
class Chair:
    """Objects named against objects present, over many texts. A rate is None where there is nothing to divide by."""

    num_texts: int
    num_mentions: int
    num_absent: int  # mentions of what is not there
    num_present: int  # categories present, summed over the texts
    chair_i: Estimate | None  # absent mentions / mentions, repeats counted
    chair_s: Estimate | None  # texts with at least one absent mention / texts
    recall: Estimate | None  # categories present that are named / categories present, each once per text
    mean_words: Estimate | None


def chair(
    texts: Iterable[tuple[str, Collection[str]]],
    finder: ObjectFinder,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Chair:
    """Counts over (text, categories present in its image).

    A general word is true of its special categories and finds them ("shoes" where sneakers are annotated): see
    `Vocabulary.covers`.

    Args:
        texts: the categories are those of the finder's vocabulary (`presence.present_categories`).
        num_resamples: of the bootstrap.
        seed: the same texts with the same seed give the same intervals.
    """
    counts = [count_text(text, frozenset(present), finder) for text, present in texts]
    tally = ChairTally()
    tally.add(np.array(counts, np.float64).reshape(-1, len(COUNTS)))
    return tally.metrics(num_resamples, seed)


# What a text adds, the columns of a tally.
COUNTS = ("texts", "words", "mentions", "absent", "is_wrong", "present", "found")
_TEXTS, _WORDS, _MENTIONS, _ABSENT, _IS_WRONG, _PRESENT, _FOUND = range(len(COUNTS))


class ChairTally:
    """Counts of any number of texts.

    Up to MAX_GROUPS texts each is resampled by itself. Beyond, groups of texts are, taken in turn: sums of groups that
    are alike by chance spread as the texts do, so the intervals are the same, and what is held does not grow.
    """

    def __init__(self) -> None:
        self._sums = np.zeros((0, len(COUNTS)))
        self._num_texts = 0

    def add(self, counts: NDArray[np.float64]) -> None:
        """
        Args:
            counts: (texts, 7), the columns of COUNTS.
        """
        first, self._num_texts = self._num_texts, self._num_texts + len(counts)
        lacking = min(self._num_texts, MAX_GROUPS) - len(self._sums)
        if lacking > 0:
            self._sums = np.concatenate([self._sums, np.zeros((lacking, len(COUNTS)))])
        np.add.at(self._sums, np.arange(first, self._num_texts) % MAX_GROUPS, counts)

    def metrics(self, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> Chair:
        """The same texts in the same order with the same seed give the same intervals."""
        totals, resampled = self._sums.sum(axis=0), _resample(self._sums, num_resamples, seed)

        def ratio(above: int, below: int) -> Estimate | None:
            if not totals[below]:
                return None
            # A resample without a single mention has no rate; the interval is over those that have one.
            usable = resampled[resampled[:, below] > 0]
            low, high = np.percentile(usable[:, above] / usable[:, below], _LEVEL)
            return Estimate(float(totals[above] / totals[below]), float(low), float(high))

        return Chair(
            num_texts=self._num_texts,
            num_mentions=int(totals[_MENTIONS]),
            num_absent=int(totals[_ABSENT]),
            num_present=int(totals[_PRESENT]),
            chair_i=ratio(_ABSENT, _MENTIONS),
            chair_s=ratio(_IS_WRONG, _TEXTS),
            recall=ratio(_FOUND, _PRESENT),
            mean_words=ratio(_WORDS, _TEXTS),
        )


def count_text(text: str, present: frozenset[str], finder: ObjectFinder) -> tuple[int, ...]:
    """What one text adds, in the order of COUNTS."""
    mentions = finder.find_objects(text)
    may_be_named = finder.vocabulary.true_of(present)
    num_absent = sum(mention.category not in may_be_named for mention in mentions)
    found = present & finder.vocabulary.named_by(distinct(mentions))
    return 1, len(text.split()), len(mentions), num_absent, int(num_absent > 0), len(present), len(found)


def _resample(counts: NDArray[np.float64], num_resamples: int, seed: int) -> NDArray[np.float64]:
    """(resamples, columns): the sums over as many texts, drawn with replacement."""
    random = np.random.default_rng(seed)
    sums = np.zeros((num_resamples, counts.shape[1]))
    for number in range(num_resamples if len(counts) else 0):
        drawn = random.integers(0, len(counts), len(counts))
        sums[number] = np.bincount(drawn, minlength=len(counts)) @ counts
    return sums
