"""How good the embedded model is, on scenes it has never seen, where the truth is known.

VIC answers gold questions of every topic, beside the two baselines that need no eyes: guessing among the choices, and
the most frequent answer. VIG's own output is counted where it parses; detailed descriptions are compared with what is
there, for VIG and for VIC, with length and recall beside the share of descriptions that name an absent object, since
cutting must not look like correcting. Both are about the same scenes, so their difference is tested pair by pair.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from vigc.model.conversation.grounding import FindObjects, make_grounder
from vigc.model.conversation.policy import Policy
from vigc.model.conversation.vigc import answer_question, converse
from vigc.model.engines.base import ImageHandle, NetworkEngine
from vigc.model.prompts import PromptPack
from vigc.model.scenes.drawing import render
from vigc.model.scenes.wording import CONVERSATION, QuestionAnswer, ask
from vigc.model.scenes.world import CATEGORIES, EASY, HARD, Scene, Split, make_scene
from vigc.platform.records import Conversation, Kind

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TopicScore:
    """Accuracy of one topic, and what guessing and the most frequent answer would get."""

    topic: str
    num_questions: int
    accuracy: float
    chance: float
    majority: float


@dataclass(frozen=True, slots=True)
class DescriptionScore:
    """Detailed descriptions against the truth; the categories named count, in words of the scenes' own world."""

    chair_s: float  # share of descriptions naming at least one absent category
    chair_i: float  # share of named categories that are absent
    recall: float  # share of present categories that are named
    length: float  # mean number of words


@dataclass(frozen=True, slots=True)
class Change:
    """Descriptions of the same scenes before and after: how many lost their absent objects, how many gained some."""

    fixed: int
    broken: int

    @property
    def p_value(self) -> float:
        """Exact two-sided McNemar test: how likely so uneven a split is, were either as likely as the other."""
        total = self.fixed + self.broken
        tail = sum(math.comb(total, i) for i in range(min(self.fixed, self.broken) + 1))
        return min(1.0, float(2 * tail / 2**total))


def held_out_scenes(num: int, seed: int, *, debiased: bool = False, hard: bool = False) -> list[Scene]:
    """Scenes no training has drawn: 1 to 5 objects, or 6 to 12."""
    fewest, most = HARD if hard else EASY
    return [
        make_scene(Split.HELD_OUT, seed, index, debiased=debiased, min_objects=fewest, max_objects=most)
        for index in range(num)
    ]


async def score_questions(
    engine: NetworkEngine,
    pack: PromptPack,
    policy: Policy,
    scenes: list[Scene],
    find_objects: FindObjects | None = None,
) -> list[TopicScore]:
    """One gold question of every topic per scene, answered by VIC."""

    async def answers(scene: Scene, image: ImageHandle) -> list[tuple[QuestionAnswer, bool]]:
        rng = random.Random(scene.seed + "/gold")
        questions = [qa for topic in CONVERSATION if (qa := ask(scene, topic, rng)) is not None]
        answer = partial(
            answer_question,
            partial(engine.complete, image),
            pack,
            policy=policy,
            candidates=partial(engine.candidates, image),
            grounder=make_grounder(policy.grounding, engine, image, pack, find_objects),
        )
        made = await asyncio.gather(*(answer(question=qa.question) for qa in questions))
        return [(qa, qa.is_right(conversation.answer)) for qa, conversation in zip(questions, made, strict=True)]

    by_topic: dict[str, list[tuple[QuestionAnswer, bool]]] = defaultdict(list)
    for scored in await _for_each(engine, scenes, answers):
        for qa, right in scored:
            by_topic[qa.topic].append((qa, right))
    return [_topic_score(topic, by_topic[topic]) for topic in CONVERSATION if by_topic[topic]]


def _topic_score(topic: str, scored: list[tuple[QuestionAnswer, bool]]) -> TopicScore:
    keys = Counter(qa.key for qa, _ in scored)
    number = len(scored)
    return TopicScore(
        topic=topic,
        num_questions=number,
        accuracy=sum(right for _, right in scored) / number,
        chance=1 / len(keys),
        majority=keys.most_common(1)[0][1] / number,
    )


async def generate(
    engine: NetworkEngine,
    pack: PromptPack,
    policy: Policy,
    scenes: list[Scene],
    kinds: list[Kind],
    find_objects: FindObjects | None = None,
) -> list[list[Conversation]]:
    """VIG and VIC about each scene, one conversation per kind."""

    async def talk(scene: Scene, image: ImageHandle) -> list[Conversation]:
        speak = partial(
            converse,
            partial(engine.complete, image),
            pack,
            policy=policy,
            seed_key=f"0/{scene.seed}",
            candidates=partial(engine.candidates, image),
            grounder=make_grounder(policy.grounding, engine, image, pack, find_objects),
        )
        return await asyncio.gather(*(speak(kind=kind) for kind in kinds))

    return await _for_each(engine, scenes, talk)


def parse_rate(conversations: list[list[Conversation]]) -> float:
    """Share of VIG outputs that hold a question and one answer."""
    every = [c for row in conversations for c in row]
    return sum("unparsed" not in c.reasons for c in every) / len(every)


def score_descriptions(scenes: list[Scene], descriptions: list[str]) -> DescriptionScore:
    """Counts the categories each description names against those its scene holds."""
    absent = named_total = recalled = present_total = words = sentences_wrong = 0
    for scene, text in zip(scenes, descriptions, strict=True):
        named, present = named_categories(text), {o.category for o in scene.objects}
        absent += len(named - present)
        sentences_wrong += bool(named - present)
        named_total += len(named)
        recalled += len(named & present)
        present_total += len(present)
        words += len(text.split())
    return DescriptionScore(
        chair_s=sentences_wrong / len(scenes),
        chair_i=absent / max(1, named_total),
        recall=recalled / present_total,
        length=words / len(scenes),
    )


def compare(scenes: list[Scene], before: list[str], after: list[str]) -> Change:
    """Scene by scene, whether an absent object is named."""
    pairs = [(_is_wrong(s, b), _is_wrong(s, a)) for s, b, a in zip(scenes, before, after, strict=True)]
    return Change(pairs.count((True, False)), pairs.count((False, True)))


def _is_wrong(scene: Scene, text: str) -> bool:
    return bool(named_categories(text) - {o.category for o in scene.objects})


def largest_opening(questions: list[str]) -> float:
    """Share of the commonest first two words."""
    return Counter(" ".join(q.split()[:2]).lower() for q in questions).most_common(1)[0][1] / len(questions)


def named_categories(text: str) -> set[str]:
    """Categories of the scenes' world that a text names, in the singular or plural."""
    return {c for c in CATEGORIES if re.search(rf"\b{c}(?:s|es)?\b", text, re.IGNORECASE)}


async def _for_each(
    engine: NetworkEngine, scenes: list[Scene], work: Callable[[Scene, ImageHandle], Awaitable[T]]
) -> list[T]:
    async def one(scene: Scene) -> T:
        async with engine.image(np.asarray(render(scene, engine.image_size))) as image:
            return await work(scene, image)

    return list(await asyncio.gather(*(one(scene) for scene in scenes)))
