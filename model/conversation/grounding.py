"""How much a sentence owes to the image, by the model's own account: no boxes needed.

Two ways to ask. ASKED puts a question to the model for every object that a sentence names, "Is there a dog in the
picture?", and takes log p(yes) - log p(no) of the object that it believes in least: above 0 it stands by the sentence,
below it denies what it said itself. BLANK compares how likely the sentence is with the image and with a blank one, in
nats per token; it needs no words to look for, and tells much less. Figures of both:
`tests/benchmarks/scripts/bench_quality.py`.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from itertools import accumulate
from typing import TYPE_CHECKING

from vigc.model.completion import ScoredToken
from vigc.model.prompts import PromptPack
from vigc.platform.records import ConfigError, Conversation, Sentence

if TYPE_CHECKING:
    from vigc.model.engines.base import ImageHandle
    from vigc.model.engines.interface import Engine


class Grounding(StrEnum):
    """How it is measured."""

    NONE = "none"
    ASKED = "asked"
    BLANK = "blank"


FindObjects = Callable[[str], Sequence[tuple[str, str]]]  # a text's objects: category, and the words that name it
Score = Callable[[str, str], Awaitable[Sequence[ScoredToken]]]  # of prompt and text, as `Engine.score`


class Grounder:
    """Measures texts about one image. What was asked once is remembered.

    Args:
        find_objects: for ASKED only.
    """

    def __init__(
        self,
        method: Grounding,
        pack: PromptPack,
        *,
        score: Score,
        score_blank: Score,
        find_objects: FindObjects = lambda text: (),
    ) -> None:
        self._method, self._pack = method, pack
        self._score, self._score_blank, self._find_objects = score, score_blank, find_objects
        self._answers: dict[str, asyncio.Task[float]] = {}

    async def ground(self, conversation: Conversation, prompt: str) -> Conversation:
        """The same with grounding for each sentence of both answers.

        Args:
            prompt: what VIC read before its answer.
        """
        both = (conversation.vig_sentences, conversation.sentences)
        vig, final = await asyncio.gather(*(self.measure(prompt, [s.text for s in one]) for one in both))
        return replace(conversation, vig_sentences=_with(both[0], vig), sentences=_with(both[1], final))

    async def measure(self, prompt: str, sentences: Sequence[str]) -> list[float | None]:
        """Grounding of each sentence of a text; None where nothing in it can be asked about."""
        if self._method is Grounding.ASKED:
            return list(await asyncio.gather(*(self._least(sentence) for sentence in sentences)))
        text = "".join(f" {sentence}" for sentence in sentences)
        if not text:
            return []
        seen, unseen = await asyncio.gather(self._score(prompt, text), self._score_blank(prompt, text))
        ends = list(accumulate(len(sentence) + 1 for sentence in sentences))
        gains: list[list[float]] = [[] for _ in sentences]
        for with_image, without in zip(seen, unseen, strict=True):
            gains[min(bisect_left(ends, with_image.end), len(ends) - 1)].append(with_image.logprob - without.logprob)
        return [sum(one) / len(one) if one else None for one in gains]

    async def denied(self, text: str, threshold: float) -> list[str]:
        """The words of a text that name what the model does not believe in."""
        if self._method is not Grounding.ASKED:
            return []
        named = self._find_objects(text)
        beliefs = await asyncio.gather(*(self._belief(category) for category, _ in named))
        return [words for (_, words), belief in zip(named, beliefs, strict=True) if belief < threshold]

    async def _least(self, sentence: str) -> float | None:
        categories = {category: None for category, _ in self._find_objects(sentence)}
        return min(await asyncio.gather(*map(self._belief, categories)), default=None)

    async def _belief(self, category: str) -> float:
        """log p(yes) - log p(no), in nats."""
        if category not in self._answers:
            self._answers[category] = asyncio.ensure_future(self._ask(category))
        return await self._answers[category]

    async def _ask(self, category: str) -> float:
        presence, question = self._pack.presence, self._pack.presence.about(category)
        yes, no = await asyncio.gather(*(self._score(question, f" {word}") for word in (presence.yes, presence.no)))
        return sum(token.logprob for token in yes) - sum(token.logprob for token in no)


def make_grounder(
    method: Grounding, engine: Engine, image: ImageHandle, pack: PromptPack, find_objects: FindObjects | None
) -> Grounder | None:
    """The grounder of an open image; None where nothing is to be measured.

    Raises:
        ConfigError: objects are to be asked about, and nothing finds them.
    """
    from vigc.model.engines.interface import BLANK

    if method is Grounding.NONE:
        return None
    if method is Grounding.ASKED and find_objects is None:
        raise ConfigError(NO_OBJECTS)
    return Grounder(
        method,
        pack,
        score=lambda prompt, text: engine.score(image, prompt, text),
        score_blank=lambda prompt, text: engine.score(BLANK, prompt, text),
        find_objects=find_objects or (lambda text: ()),
    )


NO_OBJECTS = (
    "Grounding asks the model about the objects that a sentence names, and there are no words to look for: the images "
    "come without annotations. Add --objects coco or --objects objects365 (or a file), or --grounding blank."
)


def _with(sentences: Sequence[Sentence], measured: Sequence[float | None]) -> list[Sentence]:
    return [replace(one, grounding=value) for one, value in zip(sentences, measured, strict=True)]
