"""Finds what a text says is absent.

A cue ("no", "not", "without", "neither", "instead of") opens a scope to its right. The scope ends with the clause: at
"but", "although", "only", a full stop, a comma that does not go on with a list, an "and" that begins something new. It
also ends at what is taken for granted: in "there is no dog on the couch" the couch is there. Phrases that only look
like a negation open none ("not only", "not far from", "no doubt"), and neither does a question that begins with one
("Isn't there a dog?"). "The dog is not visible" denies what stands before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from vigc.platform.quality.english import DEFINITE, FINITE, PREPOSITIONS, PRONOUNS, STOPS, word_set

_PHRASAL = word_set(
    "absence empty place opposed shape without lack lacks lacking lacked missing devoid instead rather free shaped "
    "dressed"
)
_SINGLE = word_set(
    "no not n't cannot never neither nor nobody nothing none without lack lacks lacking lacked nowhere absent zero"
)


def _phrases(written: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(phrase.split()) for phrase in written.split("|"))


_LONG = _phrases(
    "hardly any|hardly a|barely any|scarcely any|fail to|fails to|failed to|unable to|impossible to|instead of|"
    "rather than|free of|free from|empty of|devoid of|absence of|place of|opposed to|shaped like|shape of|"
    "dressed as|dressed like|missing a|missing an|missing its|missing his|missing her|missing their|"
    "missing any"
)
_NO_CUE = _phrases(
    "not without|never without|not only|not just|not merely|not simply|not far|not to mention|not many|not all|"
    "not every|not everyone|not everybody|not much|not sure|not clear|not alone|not long|not necessarily|not too|"
    "not quite|not unlike|n't only|n't just|n't far|n't all|n't many|n't alone|n't help|cannot help|no doubt|"
    "no matter|no more than|no less than|no fewer than|no longer than|no wonder|no parking|no smoking|no entry|"
    "no trespassing|no problem|no ,|no there|none other than|none of the|none of these|none of those|none of them|"
    "neither of|nothing but|without doubt|without a doubt|without question|or not|if not"
)
_CUE_WORDS = _SINGLE | {cue[0] for cue in _LONG}
_ENDS = STOPS | word_set(
    "but however although though while whereas because since so yet except besides only just which who when than "
    "apart instead unless until despite rather"
)
_EXISTENCE = word_set(
    "see sees seeing seen show shows showing shown contain contains containing include includes including have has "
    "having had feature features depict depicts find spot observe notice detect identify sign signs trace evidence any"
)
_PAUSES = frozenset(",—–-()")
# Words. A model that repeats itself without a full stop must not cost the square of its length.
_LONGEST_LIST = 12
_LONGEST_SCOPE = 60
_PLACE = PREPOSITIONS - word_set("of as than like without to for up out by")
_SUBJECT_DENIED = re.compile(
    r"(?:^|(?<= ))(?:"
    r"(?:is|are|was|were) (?:not|n't|never) (?:actually |clearly |really )?"
    r"(?:visible|present|shown|seen|depicted|pictured|there|included|evident|featured|found|anywhere|allowed|permitted|"
    r"in (?:the|this) (?:image|picture|photo|photograph|scene|frame|view)|in (?:sight|view))|"
    r"(?:cannot|can not|can n't|could not|could n't) be (?:seen|found|spotted|identified)|"
    r"(?:is|are|was|were) (?:nowhere|absent|missing(?! (?:a|an|its|his|her|their|any) )))(?= |$)"
)


def denied(words: Sequence[str], may_name: Callable[[str], bool]) -> set[int]:
    """The tokens that lie in the scope of a negation.

    Args:
        words: the tokens of a text.
        may_name: whether a name of an object can begin with this word; a list of bare names goes on behind a comma.
    """
    inside: set[int] = set()
    if _CUE_WORDS.isdisjoint(words):
        return inside
    index = 0
    while index < len(words):
        if words[index] in _CUE_WORDS and not _is_question(words, index):
            idiom = _at(words, index, _NO_CUE)
            cue = 0 if idiom else _cue_length(words, index)
            if cue:
                start = _scope_start(words, index, index + cue)
                inside.update(range(start, _scope_end(words, index, start, may_name)))
            index += max(idiom, cue, 1)
        else:
            index += 1
    joined, verb, seen = " ".join(words), 0, 0
    for match in _SUBJECT_DENIED.finditer(joined):
        verb, seen = verb + joined.count(" ", seen, match.start()), match.start()
        inside |= _subject(words, verb)
    return inside


def _at(words: Sequence[str], index: int, phrases: tuple[tuple[str, ...], ...]) -> int:
    """The length of the longest of these phrases that stands here, or 0."""
    lengths = (len(p) for p in phrases if p[0] == words[index] and tuple(words[index : index + len(p)]) == p)
    return max(lengths, default=0)


def _cue_length(words: Sequence[str], index: int) -> int:
    return _at(words, index, _LONG) or int(words[index] in _SINGLE)


def _is_question(words: Sequence[str], index: int) -> bool:
    return words[index] == "n't" and (index == 1 or (index > 1 and words[index - 2] in STOPS))


def _scope_start(words: Sequence[str], cue: int, start: int) -> int:
    """Behind the cue; in "neither the man nor the woman wears a hat" behind the verb."""
    if words[cue] not in ("neither", "nor") or start == len(words) or words[start] not in DEFINITE:
        return start
    rest = range(start, min(len(words), start + _LONGEST_SCOPE))
    end = next((index for index in rest if words[index] in _ENDS or words[index] == "nor"), rest.stop)
    return next((index + 1 for index in rest if index < end and words[index] in FINITE), end)


def _scope_end(words: Sequence[str], cue: int, start: int, may_name: Callable[[str], bool]) -> int:
    # "without a hat riding a bike", "with no hat": only the thing itself is denied, and what is done goes on.
    is_phrasal = words[cue] in _PHRASAL or (words[cue] == "no" and cue > 0 and words[cue - 1] == "with")
    # "does not show the dog" denies the dog, "does not touch the dog" takes it for granted.
    is_about_existence = False
    last = min(len(words), start + _LONGEST_SCOPE)
    for index in range(start, last):
        word = words[index]
        following = words[index + 1] if index + 1 < len(words) else "."
        if (
            word in _ENDS
            or (word in _PAUSES and not _list_goes_on(words, index + 1, may_name))
            or (word == "and" and not may_name(following))
            or (word in _PLACE and following in DEFINITE)
        ):
            return index
        if index > start and (
            (word in DEFINITE and not is_about_existence)
            or (is_phrasal and (word in FINITE or (word.endswith("ing") and not may_name(word))))
        ):
            return index
        is_about_existence = is_about_existence or word in _EXISTENCE
    return last


def _list_goes_on(words: Sequence[str], start: int, may_name: Callable[[str], bool]) -> bool:
    """Whether the words behind a comma are further items: "no dogs, cats or birds"."""
    if start >= len(words) or words[start] in PRONOUNS or words[start].endswith("ing"):
        return False
    for word in words[start : start + _LONGEST_LIST]:
        if word in ("or", "nor"):
            return True
        if word == "and":
            return may_name(words[start])
        if word in _ENDS or word in FINITE or word in DEFINITE or word in ("with", "to", "in", "on"):
            return False
    return False


def _subject(words: Sequence[str], verb: int) -> set[int]:
    """The last words of the subject before a verb that denies it, as in "a dog or a cat is not visible".

    There are none where the subject goes on with a preposition: "the face of the man is not visible".
    """
    found = {verb - 1}
    for index in range(verb - 1, max(-1, verb - _LONGEST_SCOPE), -1):
        word = words[index]
        if word in _ENDS or word == ",":
            break
        if word in PREPOSITIONS or word in FINITE:
            return set()
        if word in ("or", "and", "nor"):
            found.add(index - 1)
    return found
