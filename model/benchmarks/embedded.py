"""Conversations about scenes that the embedded model has never seen, where the truth is known.

VIC answers gold questions of every topic, beside the two baselines that need no eyes: guessing among the choices, and
the most frequent answer.
"""

from __future__ import annotations

import asyncio
import random
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
from vigc.model.scenes.world import EASY, HARD, Scene, Split, make_scene
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


async def _for_each(
    engine: NetworkEngine, scenes: list[Scene], work: Callable[[Scene, ImageHandle], Awaitable[T]]
) -> list[T]:
    async def one(scene: Scene) -> T:
        async with engine.image(np.asarray(render(scene, engine.image_size))) as image:
            return await work(scene, image)

    return list(await asyncio.gather(*(one(scene) for scene in scenes)))
