"""The little English that naming objects needs: tokens, and whether a word that could name an object does so here.

There is no tagger behind it: a word's neighbours decide, by short lists of function words. "Verb" and "adjective" are
asked only of the words that a vocabulary lists as doubtful.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

_TOKEN = re.compile(r"[^\W_]+(?:['’-][^\W_]+|(?<=\d)[.,]\d+)*|[^\w\s]")


def word_set(words: str) -> frozenset[str]:
    return frozenset(words.split())


ARTICLES = word_set("a an the this that these those another each every any some no")
POSSESSIVES = word_set("my your his her its our their whose")
DEFINITE = word_set("the this these those") | POSSESSIVES
NUMBERS = word_set(
    "one two three four five six seven eight nine ten eleven twelve dozen several many few both other multiple "
    "various numerous single"
)
DETERMINERS = ARTICLES | POSSESSIVES | NUMBERS
SUBJECTS = word_set("i you we they he she it who")
PRONOUNS = SUBJECTS | word_set("me him them us himself herself itself themselves")
BE = word_set("is are was were be been being am 're")
AUXILIARIES = BE | word_set(
    "has have had do does did can could will would shall should may might must cannot 'll 'd 've"
)
MODALS = word_set(
    "do does did can could will would shall should may might must cannot not n't never 'll 'd to let please"
)
PREPOSITIONS = word_set(
    "of in on at by with from near beside behind under over above below between among around into onto through "
    "across along inside outside next to for toward towards against beneath underneath atop before after during "
    "up down off out about as than like without within upon past amid alongside via"
)
CONJUNCTIONS = word_set("and or nor but while that which who whose where when because so if although though then")
MARKS = frozenset('.,;:!?()[]"“”—–-…')
STOPS = frozenset(".;:!?…")
# Third persons as captions use them; they cannot be told from plurals by their form.
FINITE = AUXILIARIES - word_set("be been being") | word_set(
    "rides sits stands holds walks wears looks eats carries plays runs rests lies leans drives uses talks jumps "
    "flies poses waits works hits swings cuts reads sleeps crosses pulls pushes shows contains appears seems "
    "hangs rides goes comes makes takes gets gives watches throws catches faces fills surrounds features sit "
    "stand hold walk wear ride"
)
_COLOURS = word_set(
    "red green blue yellow orange purple pink black white brown grey gray silver gold golden beige tan teal "
    "turquoise striped colored coloured color colour"
)
_SHADES = word_set("bright dark light pale deep burnt neon vivid color colour of shade hue")
_AFTER_A_HEAD = (
    AUXILIARIES
    | (PREPOSITIONS - {"like"})
    | CONJUNCTIONS
    | MARKS
    | FINITE
    | word_set(
        "sitting lying resting hanging flying rolling standing walking pecking eating growing floating running placed "
        "cut being visible here there too also itself nearby together"
    )
)
_COOKED = word_set(
    "fried roast roasted grilled baked cooked smoked shredded barbecued steamed breaded sliced curried glazed braised"
)
_LONGEST_PHRASE = 4  # words before the noun
_AFTER_A_VERB = (DETERMINERS - {"that", "no", "other"}) | PRONOUNS - SUBJECTS
_AFTER_THIRD_PERSON = word_set(
    "down up through across past into along over onto away as from around off by below beneath under"
)
_BEFORE_TO = word_set(
    "next close adjacent attached due tied opposite similar addition thanks belong belongs according up"
)


class Tokens(NamedTuple):
    """A text in words and marks, in lower case, with where each lies in it."""

    words: list[str]
    starts: list[int]
    ends: list[int]
    joined: set[int]  # tokens that a hyphen joins to the next
    owners: set[int]  # tokens that carried 's


def tokenise(text: str) -> Tokens:
    """Words, marks, and the parts of words joined by hyphens or apostrophes ("isn't" gives "is" and "n't")."""
    lower = text.lower()
    if len(lower) != len(text):  # a letter whose small form is longer would shift all that follows
        lower = "".join(small if len(small := letter.lower()) == 1 else letter for letter in text)
    tokens = Tokens([], [], [], set(), set())
    words, starts, ends, _, _ = tokens
    for match in _TOKEN.finditer(lower):
        word = match.group()
        if word.isalpha() or len(word) == 1:
            words.append(word)
            starts.append(match.start())
            ends.append(match.end())
        else:
            _add_parts(tokens, word, match.start())
    return tokens


def _add_parts(tokens: Tokens, compound: str, start: int) -> None:
    parts = compound.split("-")
    for number, part in enumerate(parts):
        word, _, tail = part.replace("’", "'").partition("'")
        if tail == "t" and word.endswith("n"):
            word, tail = (word if word == "can" else word[:-1]), "n't"
        elif tail == "s":
            tokens.owners.add(len(tokens.words))
            tail = ""
        elif tail:
            tail = "'" + tail
        tokens.words.append(word)
        tokens.starts.append(start)
        tokens.ends.append(start + len(word))
        if tail:
            tokens.words.append(tail)
            tokens.starts.append(start + len(part) - len(tail))
            tokens.ends.append(start + len(part))
        if number < len(parts) - 1:
            tokens.joined.add(len(tokens.words) - 1)
        start += len(part) + 1


def is_verb(words: Sequence[str], first: int, last: int, is_plural: bool, after_person: bool) -> bool:
    """Whether the doubtful word at `first` (the next token is `last`) is a verb: "he ties his shoes", "to book a room",
    "the skier skis down"; what has a determiner before it is none."""
    before = words[first - 1] if first else "."
    after = words[last] if last < len(words) else "."
    if before == "to":
        return not (is_plural or (first > 1 and words[first - 2] in _BEFORE_TO))
    if before in DETERMINERS and not (before == "that" and is_plural):
        return False
    if before in SUBJECTS or before in MODALS or after_person:
        return True
    if words[first].endswith("ing"):
        return before in AUXILIARIES
    if before in PREPOSITIONS or before in CONJUNCTIONS or before in AUXILIARIES or before.endswith(("ing", "ed")):
        return before == "that" and after in _AFTER_A_VERB
    takes_object = after in _AFTER_A_VERB and not (before in MARKS and is_plural)
    return takes_object or (is_plural and before not in MARKS and after in _AFTER_THIRD_PERSON)


def is_head(words: Sequence[str], first: int, last: int, is_plural: bool) -> bool:
    """Whether a word that may be a colour, dish or game is an object here: a plural, or the end of a noun phrase with
    an article ("an orange and a pear", not "an orange and white cat", "bright orange", "a baseball player")."""
    after = words[last] if last < len(words) else "."
    if is_plural:
        return True
    if after not in _AFTER_A_HEAD or (first and words[first - 1] in _SHADES):
        return False
    if after in ("and", ",", "or") and last + 1 < len(words) and words[last + 1] in _COLOURS:
        return False
    return has_article(words, first)


def has_article(words: Sequence[str], first: int) -> bool:
    """Whether the noun phrase that ends in the word at `first` begins with a determiner and is no dish ("fried")."""
    for index in range(first - 1, max(-1, first - _LONGEST_PHRASE), -1):
        word = words[index]
        if word in DETERMINERS:
            return True
        if word in PREPOSITIONS or word in MARKS or word in CONJUNCTIONS or word in AUXILIARIES or word in _COOKED:
            return False
    return False
