"""Which questions are the same question.

A question is what is left of it without the words that carry no meaning ("Can you see … in this picture?"): its words
and their pairs in order, so that left and right, or who looks at whom, stay different questions. Questions that overlap
enough belong together; MinHash (rensa) finds the few that can. On request also those whose meanings lie close, by
sentence vectors that are handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash, RMinHashLSH

from vigc.platform.quality.filters import words_of

# Texts in, one unit vector each out: (texts, width).
Embed = Callable[[Sequence[str]], NDArray[np.float32]]

NUM_HASHES, NUM_BANDS = 125, 25  # five to a band: of pairs that overlap by 0.7, 99 of 100 meet in one
MAX_COMPARED = 64  # leaders that a question is compared with, the most frequent first
FORMS_AT_ONCE = 10_000
NUM_MEANINGS = 4096  # frequent questions that others are compared with by meaning

_SMALL_WORDS = """
a an the is are was were be been being do does did can could would will you we i it its this that these those there
here in of on at to for and or any some please picture image photo photograph scene shown show shows see seen visible
tell me describe s
"""
_SAYS_NOTHING = frozenset(_SMALL_WORDS.split())


def form_of(question: str) -> str:
    """What two askings of one question share; of a question that is all small words, all of them."""
    words = words_of(question.replace("'s", " is").replace("’s", " is"))
    return " ".join([word for word in words if word not in _SAYS_NOTHING] or words)


def same_questions(
    forms: Sequence[str], counts: Sequence[int], overlap: float, *, embed: Embed | None = None, meaning: float = 1.0
) -> NDArray[np.int64]:
    """For each form the number of the form that stands for it.

    The most frequent forms lead; each of the others follows the first leader that it overlaps with, or leads itself.

    Args:
        forms: different ones, of `form_of`.
        counts: how often each is asked.
        overlap: shared words and pairs of words as a share of all that two have.
        meaning: cosine from which a form also follows one of the NUM_MEANINGS most frequent leaders.
    """
    order = sorted(range(len(forms)), key=lambda place: (-counts[place], forms[place]))
    leader = np.arange(len(forms), dtype=np.int64)
    lsh = RMinHashLSH(threshold=overlap, num_perm=NUM_HASHES, num_bands=NUM_BANDS)
    leaders: list[int] = []
    tokens_of: list[frozenset[str]] = []
    for start in range(0, len(order), FORMS_AT_ONCE):
        some = order[start : start + FORMS_AT_ONCE]
        tokens = [_tokens(forms[place]) for place in some]
        hashes = RMinHash.from_token_sets([sorted(one) for one in tokens], num_perm=NUM_HASHES, seed=0)
        for place, mine, minhash in zip(some, tokens, hashes, strict=True):
            for candidate in sorted(lsh.query(minhash))[:MAX_COMPARED]:
                theirs = tokens_of[candidate]
                if len(mine & theirs) >= overlap * len(mine | theirs):
                    leader[place] = leaders[candidate]
                    break
            else:
                lsh.insert(len(leaders), minhash)
                leaders.append(place)
                tokens_of.append(mine)
    if embed is not None:
        leader = _by_meaning(forms, leaders, embed, meaning)[leader]
    return leader


def _tokens(form: str) -> frozenset[str]:
    words = form.split()
    return frozenset([*words, *(f"{first} {second}" for first, second in pairwise(words))])


def _by_meaning(forms: Sequence[str], leaders: Sequence[int], embed: Embed, least: float) -> NDArray[np.int64]:
    """For each form that leads, the more frequent leader that it follows by its meaning, or itself."""
    follows = np.arange(len(forms), dtype=np.int64)
    kept: list[int] = []
    vectors = np.zeros((0, 0), np.float32)
    for start in range(0, len(leaders), FORMS_AT_ONCE):
        some = leaders[start : start + FORMS_AT_ONCE]
        found = embed([forms[place] for place in some])
        if not vectors.size:
            vectors = np.zeros((NUM_MEANINGS, found.shape[1]), np.float32)
        for place, vector in zip(some, found, strict=True):
            alike = vectors[: len(kept)] @ vector
            if len(alike) and alike.max() >= least:
                follows[place] = kept[int(alike.argmax())]
            elif len(kept) < NUM_MEANINGS:
                vectors[len(kept)] = vector
                kept.append(place)
    return follows
