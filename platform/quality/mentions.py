"""Which objects a text names.

Names are looked up longest first in a table of all forms of a vocabulary's words, singular and plural, that is made
once; a word's neighbours decide where it may be a verb, a colour or part of another thing's name (`english.py`), and
what the text denies it does not name (`negation.py`). "There is no dog" names nothing. A question for something names
it ("Is there a dog?"): it is about that object. Pronouns name nothing, and "a toy car" names a car.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from lemminflect import getInflection

from vigc.platform.quality.english import Tokens, has_article, is_head, is_verb, tokenise
from vigc.platform.quality.negation import denied
from vigc.platform.vocabulary import Vocabulary

PERSON = "person"
NUM_REMEMBERED = 4096  # texts: answers before and after correction share most of their sentences
# "a horse-drawn carriage" names a horse, "a dog-friendly bar" no dog.
_STILL_NAMED = ("drawn", "pulled", "wearing", "carrying", "holding", "riding")


@dataclass(frozen=True, slots=True)
class Mention:
    """One place in a text that names an object."""

    category: str
    start: int  # characters of the text
    end: int


@dataclass(frozen=True, slots=True)
class _Name:
    """One form of a phrase: what it names, and what must be looked at before it does."""

    category: str | None  # None: it names nothing, and no word in it does
    has_owner: bool  # "men's room"; without one in the phrase there must be none in the text: "the dog's bed"
    is_plural: bool
    only_as_head: bool
    only_with_article: bool
    may_be_verb: bool
    is_modifier: bool

    @property
    def is_doubtful(self) -> bool:
        return self.only_as_head or self.only_with_article or self.may_be_verb or self.is_modifier


class ObjectFinder:
    """Finds the objects of one vocabulary; made once and kept, since making one takes about half a second."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._table = _table(vocabulary)
        self._first_words = {word for word, names in self._table.items() if any(name.category for _, name, _ in names)}
        self._remembered = lru_cache(NUM_REMEMBERED)(self._find)

    def find_objects(self, text: str) -> list[Mention]:
        """All mentions in the order of the text, repeats included; none overlap."""
        return list(self._remembered(text))

    def _find(self, text: str) -> list[Mention]:
        tokens = tokenise(text)
        words = tokens.words
        found: list[tuple[int, int, str]] = []
        index, person_ends = 0, -1
        while index < len(words):
            if words[index] not in self._table or (match := self._match(tokens, index)) is None:
                index += 1
                continue
            end, name, doubtful = match
            if name.category is not None and (
                (not doubtful and end - 1 not in tokens.joined)
                or self._is_named(tokens, index, end, name, person_ends == index)
            ):
                found.append((index, end, name.category))
                if name.category == PERSON and not name.is_modifier and end - 1 not in tokens.owners:
                    person_ends = end
            index = end
        if not found:
            return []
        outside = denied(words, self._first_words.__contains__)
        return [
            Mention(category, tokens.starts[first], tokens.ends[end - 1])
            for first, end, category in found
            if end - 1 not in outside
        ]

    def named(self, text: str) -> list[tuple[str, str]]:
        """The same as category and the words that name it."""
        return [(one.category, text[one.start : one.end]) for one in self.find_objects(text)]

    def categories(self, text: str) -> list[str]:
        """The different categories that a text names, in the order of their first mention."""
        return distinct(self.find_objects(text))

    def _match(self, tokens: Tokens, index: int) -> tuple[int, _Name, bool] | None:
        """The longest name that begins here, and where it ends."""
        words, owners = tokens.words, tokens.owners
        for tail, name, doubtful in self._table[words[index]]:
            end = index + 1 + len(tail)
            if not tail or (
                words[index + 1 : end] == tail
                and (not owners or name.has_owner or owners.isdisjoint(range(index, end - 1)))
            ):
                return end, name, doubtful
        return None

    def _is_named(self, tokens: Tokens, first: int, end: int, name: _Name, after_person: bool) -> bool:
        words = tokens.words
        if end - 1 in tokens.joined:
            return words[end] in _STILL_NAMED
        if name.may_be_verb and is_verb(words, first, end, name.is_plural, after_person):
            return False
        if name.only_as_head and not is_head(words, first, end, name.is_plural):
            return False
        if name.only_with_article and not (name.is_plural or has_article(words, first)):
            return False
        if not name.is_modifier:
            return True
        follows = self._match(tokens, end) if end < len(words) and words[end] in self._table else None
        is_described = follows is not None and end - 1 not in tokens.owners
        return not is_described and words[first - 1 if first else 0] != "its"


def distinct(mentions: Iterable[Mention]) -> list[str]:
    """The different categories, in the order of their first mention."""
    return list(dict.fromkeys(mention.category for mention in mentions))


_Table = dict[str, list[tuple[list[str], _Name, bool]]]


def _table(vocabulary: Vocabulary) -> _Table:
    """First word -> the rest of each name that begins with it, the longest first.

    A name in its own right goes before another's plural: "glasses" on a nose before a plural of "glass".
    """
    forms: dict[tuple[str, ...], _Name] = {}
    entries: list[tuple[str, str | None]] = [*vocabulary.words.items(), *((p, None) for p in vocabulary.nothing)]
    entries.sort(key=lambda entry: (not entry[0].startswith("="), entry[0]))
    plurals: list[tuple[tuple[str, ...], _Name]] = []
    groups = (vocabulary.only_as_head, vocabulary.only_with_article, vocabulary.verbs, vocabulary.modifiers)
    for written, category in entries:
        phrase = written.removeprefix("=")
        tokens = tokenise(phrase)
        words, has_owner = tuple(tokens.words), bool(tokens.owners)
        doubts = [phrase in group for group in groups]
        forms.setdefault(words, _Name(category, has_owner, False, *doubts))
        if not written.startswith("="):
            plurals.extend((form, _Name(category, has_owner, True, *doubts)) for form in _plurals(words))
    for form, name in plurals:
        forms.setdefault(form, name)
    table: _Table = {}
    for (head, *tail), name in sorted(forms.items(), key=lambda form: -len(form[0])):
        table.setdefault(head, []).append((tail, name, name.is_doubtful))
    return table


def _plurals(words: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The plurals of a phrase: of its last word, or of the one before "of", "on" or "in" ("slices of pizza")."""
    at = next((i for i, word in enumerate(words) if i and word in ("of", "on", "in")), len(words)) - 1
    return [(*words[:at], form, *words[at + 1 :]) for form in getInflection(words[at], "NNS") if form != words[at]]
