"""What `vigc filter` can be told, and what holds when it is told nothing. Standard library only: help shows these."""

from __future__ import annotations

from dataclasses import dataclass

from vigc.platform.records import ConfigError


@dataclass(frozen=True, slots=True)
class FilterSettings:
    """None: not looked at. The defaults refuse what is broken or said twice; what is a matter of taste has to be asked
    for, and what is not wanted is named in `off`."""

    min_words: int = 1  # of an answer
    max_words: int = 500
    max_repetition: float = 0.3  # share of an answer's sequences of six words that were there before
    max_absent: int = 1  # different objects that an answer names and the image does not hold
    min_grounding: float | None = None  # of an answer's least grounded sentence
    words: tuple[str, ...] = ()  # that may not occur
    language: str | None = None  # e.g. "en"
    similar_question: float = 0.7  # overlap from which two questions count as the same one
    similar_meaning: float | None = None  # cosine of their meanings from which they do, too
    max_distance: int = 4  # bits of 64 by which the hashes of near-duplicate images differ at most
    max_same_question: float = 0.02  # share of a kind that may ask the same question; a hundred always may
    max_opening: float | None = None  # share of a kind that may begin alike, by two words
    max_yes_no: float | None = None  # share of either, among answers that begin with yes or no
    off: tuple[str, ...] = ()  # names of filters that are left out
    seed: int = 0  # of the choice among those that are too many

    def __post_init__(self) -> None:
        for name, least, most in (
            ("max_repetition", 0.0, 1.0),
            ("similar_question", 0.0, 1.0),
            ("similar_meaning", 0.0, 1.0),
            ("max_same_question", 0.0, 1.0),
            ("max_opening", 0.0, 1.0),
            ("max_yes_no", 0.5, 1.0),
        ):
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise ConfigError(f"--{name.replace('_', '-')} {value}: use a number from {least:g} to {most:g}.")
        if self.min_words < 0 or self.max_words < self.min_words:
            raise ConfigError(f"--min-words {self.min_words}, --max-words {self.max_words}: the first is the smaller.")
        if self.max_absent < 0:
            raise ConfigError(f"--max-absent {self.max_absent}: 0 is the least.")
        if not 0 <= self.max_distance <= 16:
            raise ConfigError(f"--max-distance {self.max_distance}: use 0 to 16 of 64 bits.")
