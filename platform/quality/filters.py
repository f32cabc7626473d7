"""Filters: each looks at one conversation and says whether it is fit to train on, or that it cannot tell.

What needs the whole data set (duplicates, balance, evaluation images) is in `corpus.py`. Which filters run, and in what
order their counts are shown, says `filters_for`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from vigc.platform import plugins
from vigc.platform.quality.settings import FilterSettings
from vigc.platform.records import ConfigError, Kind

NGRAM = 6  # words
MIN_QUESTION_WORDS = 4  # a shorter question may well be part of its answer
MIN_LANGUAGE_WORDS = 8  # in fewer, a language cannot be told
MIN_UNMARKED_WORDS = 6  # "red" and "two cups" need no full stop
LANGUAGE_MARGIN = 10.0  # nats by which another language has to be likelier

_WORD = re.compile(r"\w+(?:['’]\w+)*")
_END = re.compile(r"[.!?…。！？][\"'”’)\]]*$")


@dataclass(frozen=True, slots=True)
class JudgedConversation:
    """What filters look at of one conversation."""

    kind: str
    question: str
    answer: str
    is_cut: bool  # its last sentence ended with the token limit
    num_absent: int | None  # different objects named that are not there; None where nobody knows
    grounding: float | None  # of the least grounded sentence; None: not measured


class FilterRule(ABC):
    name: ClassVar[str]  # in tables and, as the reason, in verdicts
    template: ClassVar[str]  # of `rule`; {…} stand for the filter's own settings

    @property
    def rule(self) -> str:
        """What it rejects, in words."""
        return self.template.format(**vars(self))


class Filter(FilterRule):
    @abstractmethod
    def rejects(self, talk: JudgedConversation) -> bool | None:
        """Whether it rejects the conversation; None where it cannot tell."""


class Empty(Filter):
    name = "empty"
    template = "no question or no answer"

    def rejects(self, talk: JudgedConversation) -> bool:
        return not talk.answer.strip() or not talk.question.strip()


class Truncated(Filter):
    name = "truncated"
    template = "the answer was cut by the token limit, or has no end"

    def rejects(self, talk: JudgedConversation) -> bool:
        answer = talk.answer.strip()
        has_end = talk.kind == Kind.KNOWLEDGE or bool(_END.search(answer))
        return bool(answer) and (talk.is_cut or (not has_end and len(answer.split()) >= MIN_UNMARKED_WORDS))


class NoQuestion(Filter):
    name = "no_question"
    template = "the question has no question mark; descriptions may be asked for without"

    def rejects(self, talk: JudgedConversation) -> bool | None:
        return None if talk.kind == Kind.DETAIL else "?" not in talk.question and "？" not in talk.question


@dataclass(frozen=True)
class Length(Filter):
    name = "length"
    template = "fewer than {least} or more than {most} words in the answer"
    least: int
    most: int

    def rejects(self, talk: JudgedConversation) -> bool:
        return not self.least <= len(talk.answer.split()) <= self.most


@dataclass(frozen=True)
class Repetitive(Filter):
    name = "repetitive"
    template = f"more than {{most:.0%}} of the answer's sequences of {NGRAM} words were there before"
    most: float

    def rejects(self, talk: JudgedConversation) -> bool:
        words = words_of(talk.answer)
        num = len(words) - NGRAM + 1
        if num < NGRAM:
            return False
        return 1 - len({tuple(words[i : i + NGRAM]) for i in range(num)}) / num > self.most


class QuestionRepeated(Filter):
    name = "question_repeated"
    template = "the answer holds the question"

    def rejects(self, talk: JudgedConversation) -> bool:
        question = words_of(talk.question)
        if len(question) < MIN_QUESTION_WORDS:
            return False
        return f" {' '.join(question)} " in f" {' '.join(words_of(talk.answer))} "


@dataclass(frozen=True)
class Absent(Filter):
    name = "absent"
    template = "the answer names more than {most} objects that are not there"
    most: int

    def rejects(self, talk: JudgedConversation) -> bool | None:
        return None if talk.num_absent is None else talk.num_absent > self.most


@dataclass(frozen=True)
class LowGrounding(Filter):
    name = "low_grounding"
    template = "a sentence is grounded by less than {least:g}"
    least: float

    def rejects(self, talk: JudgedConversation) -> bool | None:
        return None if talk.grounding is None else talk.grounding < self.least


class Disallowed(Filter):
    name = "disallowed"
    template = "one of {num_words} words in question or answer"

    def __init__(self, words: tuple[str, ...]) -> None:
        self.num_words = len(words)
        phrases = "|".join(r"\s+".join(map(re.escape, word.split())) for word in words)
        self._pattern = re.compile(rf"(?<!\w)(?:{phrases})(?!\w)", re.IGNORECASE)

    def rejects(self, talk: JudgedConversation) -> bool:
        return bool(self._pattern.search(talk.question) or self._pattern.search(talk.answer))


class Language(Filter):
    name = "language"
    template = "another language than {language}"

    def __init__(self, language: str) -> None:
        try:
            import py3langid
        except ImportError as error:
            raise ConfigError("--language needs py3langid. Install it with: pip install 'vigc[quality]'") from error
        self.language, self._rank = language, py3langid.rank
        if language not in dict(self._rank("A text.")):
            raise ConfigError(f"--language {language}: not a known one. Use a code of ISO 639, like en, de or zh.")

    def rejects(self, talk: JudgedConversation) -> bool | None:
        text = f"{talk.question} {talk.answer}"
        if len(text.split()) < MIN_LANGUAGE_WORDS and text.isascii():
            return None
        ranked = self._rank(text)
        return bool(ranked[0][1] - dict(ranked)[self.language] > LANGUAGE_MARGIN)


def filters_for(settings: FilterSettings) -> list[Filter]:
    """Raises ConfigError where one of them cannot be had."""
    found: list[Filter] = [
        Empty(),
        Truncated(),
        NoQuestion(),
        Length(settings.min_words, settings.max_words),
        Repetitive(settings.max_repetition),
        QuestionRepeated(),
        Absent(settings.max_absent),
    ]
    if settings.language is not None:
        found.append(Language(settings.language))
    if settings.min_grounding is not None:
        found.append(LowGrounding(settings.min_grounding))
    if settings.disallowed:
        found.append(Disallowed(settings.disallowed))
    found += [_of_plugin(name) for name in settings.also]
    return [one for one in found if one.name not in settings.off]


def _of_plugin(name: str) -> Filter:
    make = plugins.load(plugins.FILTERS, name)
    if make is None:
        known = ", ".join(plugins.installed(plugins.FILTERS)) or "none is installed"
        raise ConfigError(f"--also {name}: there is no such plug-in ({known}).")
    made = make()
    if not isinstance(made, Filter):
        raise ConfigError(f"--also {name}: the plug-in gave {type(made).__name__}, which is no Filter.")
    return made


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return _WORD.findall(text.lower())
