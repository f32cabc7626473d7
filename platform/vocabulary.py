"""The categories of a data set and the words that name them, read from YAML.

`coco` and `objects365` ship; a user's file replaces them, or with `extends: coco` adds to one of them. Words that mean
the same in every data set ("puppy" is a dog) stand once, in `english.yaml`, with what else holds for all of English;
what a vocabulary lists itself wins over it, and what a user's file lists wins over what it extends. The lists are the
project's own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from vigc.platform.records import ConfigError

FOLDER = Path(__file__).with_name("vocabularies")
SHIPPED = ("coco", "objects365")
_LISTS = ("nothing", "only_as_head", "only_with_article", "verbs", "modifiers")
_KEYS = {"name", "extends", "categories", "covers", *_LISTS}


@dataclass(frozen=True)
class Vocabulary:
    """What can be named. Phrases are in the singular; "=phrase" stands for that form only."""

    name: str
    categories: tuple[str, ...]  # lower case, in the order of the data set's ids
    words: dict[str, str]  # phrase -> the category it names
    nothing: frozenset[str]  # phrases that name nothing although a word of theirs does ("train station")
    only_as_head: frozenset[str] = (
        frozenset()
    )  # an object only as the end of a noun phrase with an article ("an orange")
    only_with_article: frozenset[str] = frozenset()  # food without one ("a duck")
    verbs: frozenset[str] = frozenset()  # may be verbs as well ("to book a room")
    modifiers: frozenset[str] = frozenset()  # before another object they only describe it ("baby elephant")
    covers: dict[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # general -> special: who says shoes means sneakers

    def category(self, annotated: str) -> str | None:
        """The category of this vocabulary that an annotation means, whatever its capitals; None where it has none."""
        name = annotated.lower()
        return name if name in self.categories else None

    def true_of(self, present: Iterable[str]) -> frozenset[str]:
        """The categories that a text may name when these are in the image: they, and the general ones over them."""
        there = frozenset(present)
        return there | {general for general, special in self.covers.items() if not there.isdisjoint(special)}

    @cached_property
    def hash(self) -> str:
        """Of all that it holds: equal where the same texts name the same objects."""
        return hashlib.sha256(json.dumps(self.as_json(), sort_keys=True).encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        return {name: sorted(value) if isinstance(value, frozenset) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Vocabulary:
        read: dict[str, Any] = {
            one.name: frozenset(values[one.name]) if one.type.startswith("frozenset") else values[one.name]
            for one in fields(cls)
        }
        covers = {general: tuple(special) for general, special in values["covers"].items()}
        return cls(**read | {"categories": tuple(values["categories"]), "covers": covers})

    def restricted(self, categories: Iterable[str]) -> Vocabulary:
        """Only these of its categories. The names of the others name nothing: a hot dog stays none of the dogs."""
        kept = frozenset(categories)
        of_others = {phrase for phrase, category in self.words.items() if category not in kept}
        return replace(
            self,
            name=f"{self.name}, {len(kept)} of {len(self.categories)} categories",
            categories=tuple(category for category in self.categories if category in kept),
            words={phrase: category for phrase, category in self.words.items() if category in kept},
            nothing=self.nothing | of_others,
            covers={
                general: there
                for general, special in self.covers.items()
                if general in kept and (there := tuple(one for one in special if one in kept))
            },
        )

    def named_by(self, named: Iterable[str]) -> frozenset[str]:
        """The categories that these mentions may have meant: they, and the special ones below them."""
        said = frozenset(named)
        return said.union(*(self.covers.get(category, ()) for category in said))


def load_vocabulary(which: str | Path) -> Vocabulary:
    """A shipped vocabulary by its name, or the one in a YAML file.

    Raises:
        ConfigError: the file cannot be read, or an entry of it cannot be used; it names file, entry and remedy.
    """
    return _with_english(_load(FOLDER / f"{which}.yaml" if which in SHIPPED else Path(which)))


def vocabulary_of(categories: Iterable[str]) -> Vocabulary | None:
    """The vocabulary of a source whose annotations use these categories; None where there are none.

    All of COCO's 80 or of Objects365's 365 are those, with their words. Some of them are these alone: what a source
    never annotates cannot be found absent. Others name themselves, with the words that English has for them.
    """
    names = {name for category in categories if (name := " ".join(category.lower().split()))}
    if not names:
        return None
    for shipped in map(load_vocabulary, SHIPPED):
        if names <= frozenset(shipped.categories):
            return shipped if len(names) == len(shipped.categories) else shipped.restricted(names)
    place = Path("the categories of the source")
    return _with_english(_Words.of(place, {"name": "source", "categories": dict.fromkeys(sorted(names))}, "categories"))


def _with_english(own: _Words) -> Vocabulary:
    """A file's words, and those that English has for its categories."""
    english = _Words.of(FOLDER / "english.yaml", _read(FOLDER / "english.yaml", {"words", *_LISTS}), "words")
    words = {phrase: category for category, phrases in own.words.items() for phrase in phrases}
    taken = _bare({*words, *own.lists["nothing"]})
    for category, shared in english.words.items():
        if category in own.words:
            words |= {phrase: category for phrase in shared if phrase.strip("=") not in taken}
    named = set(words.values())
    words |= {category: category for category in own.words if category not in named and category not in words}
    lists = {name: english.lists[name] | own.lists[name] for name in _LISTS}
    all_words = _bare(words)
    return Vocabulary(
        name=own.name,
        categories=tuple(own.words),
        words=words,
        nothing=frozenset(phrase for phrase in lists["nothing"] if phrase.strip("=") not in all_words),
        covers=own.covers,
        **{name: frozenset(lists[name]) for name in _LISTS if name != "nothing"},
    )


@dataclass(frozen=True, slots=True)
class _Words:
    """One file as it is written."""

    name: str
    words: dict[str, set[str]]  # category -> phrases
    lists: dict[str, set[str]]
    covers: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, path: Path, raw: dict[str, Any], key: str) -> _Words:
        words: dict[str, set[str]] = {}
        owner: dict[str, str] = {}
        for category, phrases in _mapping(path, raw, key).items():
            words[category] = _phrases(path, f"{key}: {category}", phrases)
            for phrase in words[category]:
                if owner.setdefault(phrase, category) != category:
                    raise ConfigError(
                        f"{path}: {phrase!r} is listed for both {owner[phrase]!r} and {category!r}. A word names one "
                        "category: take it out of one of the lists."
                    )
        lists = {name: _phrases(path, name, raw.get(name)) for name in _LISTS}
        for phrase in sorted(lists["nothing"] & owner.keys()):
            raise ConfigError(
                f"{path}: {phrase!r} is listed for {owner[phrase]!r} and under 'nothing'. Take it out of one of them."
            )
        covers = {
            general: tuple(sorted(_phrases(path, f"covers: {general}", special)))
            for general, special in _mapping(path, raw, "covers").items()
        }
        return cls(str(raw.get("name", path.stem)), words, lists, covers)

    def over(self, base: _Words) -> _Words:
        """This file's entries added to another's; what this one says of a phrase holds."""
        mine = _bare([*self.lists["nothing"], *(phrase for phrases in self.words.values() for phrase in phrases)])
        words = {
            category: {phrase for phrase in phrases if phrase.strip("=") not in mine}
            for category, phrases in base.words.items()
        }
        for category, phrases in self.words.items():
            words[category] = words.get(category, set()) | phrases
        lists = {name: base.lists[name] | self.lists[name] for name in _LISTS}
        return _Words(self.name, words, lists, base.covers | self.covers)


def _bare(phrases: Iterable[str]) -> set[str]:
    """Without the mark for "that form only"."""
    return {phrase.strip("=") for phrase in phrases}


def _load(path: Path) -> _Words:
    raw = _read(path, _KEYS)
    own = _Words.of(path, raw, "categories")
    if "extends" in raw:
        if raw["extends"] not in SHIPPED:
            raise ConfigError(f"{path}: extends {raw['extends']!r}, which is none of {', '.join(SHIPPED)}.")
        own = own.over(_load(FOLDER / f"{raw['extends']}.yaml"))
    if not own.words:
        raise ConfigError(f"{path}: 'categories' is empty. List at least one, e.g.  categories: {{dog: [hound]}}")
    for general, special in own.covers.items():
        for category in (general, *special):
            if category not in own.words:
                raise ConfigError(f"{path}: covers: {general}: {category!r} is no category of this vocabulary.")
    return own


def _read(path: Path, keys: set[str]) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: the vocabulary cannot be read ({error}). Name one of {', '.join(SHIPPED)}, or a YAML file like "
            f"{FOLDER / 'coco.yaml'}."
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML ({error}). Compare it with {FOLDER / 'coco.yaml'}.") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected keys and values, e.g.  categories: {{dog: [hound]}}")
    for key in raw:
        if key not in keys:
            raise ConfigError(f"{path}: unknown entry {key!r}. Possible are {', '.join(sorted(keys))}.")
    return raw


def _mapping(path: Path, raw: dict[str, Any], key: str) -> dict[str, Any]:
    value = raw.get(key) or {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: {key}: expected a name and a list each, e.g.  {key}: {{dog: [hound]}}")
    named: dict[str, Any] = {}
    for name, entry in value.items():
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"{path}: {key}: {name!r} is no text. Put it in quotes.")
        named[" ".join(name.lower().split())] = entry
    return named


def _phrases(path: Path, place: str, value: Any) -> set[str]:
    if value is None:
        return set()
    if not isinstance(value, list):
        raise ConfigError(f"{path}: {place}: expected a list of words, e.g.  [hound, german shepherd]")
    for phrase in value:
        if not isinstance(phrase, str) or not phrase.strip(" ="):
            raise ConfigError(f"{path}: {place}: {phrase!r} is no text. Put it in quotes.")
    return {" ".join(phrase.lower().split()) for phrase in value}
