"""An engine at work: what it says about one image.

The actors of a run and the replicas of the service both go through here, so a row of either is the same. Light to
import, for whoever only hands on what is to be said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from vigc.model.completion import Candidates, Completion, Request
from vigc.model.conversation.dialogue import Question
from vigc.model.conversation.grounding import FindObjects, Grounder, make_grounder
from vigc.model.conversation.policy import Policy
from vigc.model.conversation.vigc import answer_question, converse
from vigc.model.prompts import PromptPack
from vigc.platform.records import Conversation, CorrectionStep, Kind, Stop, TokenUsage

if TYPE_CHECKING:
    from vigc.model.engines.interface import Engine


@dataclass(frozen=True, slots=True)
class ConversationSettings:
    """Which conversations are held about each image, and how."""

    pack: PromptPack
    policy: Policy
    kinds: tuple[Kind, ...]
    seed: int
    question: str | None = None  # answered by VIC, once for each kind; None: VIG asks
    find_objects: FindObjects | None = None  # for a policy that asks about them
    max_tokens: int | None = None  # decoded for each conversation in all; None: as the policy goes


ConversationEvent = Question | CorrectionStep | Conversation


async def hold_conversations(
    engine: Engine,
    image_id: str,
    pixels: bytes,
    settings: ConversationSettings,
    on_event: Callable[[Kind, ConversationEvent], None] | None = None,
    on_usage: Callable[[TokenUsage], None] | None = None,
) -> list[Conversation]:
    """All kinds at once; when one fails, the others are cancelled and free their slots.

    Args:
        image_id: sampling depends on it and on `settings.seed`.
        pixels: the image in the engine's `image_form`.
        on_event: called with each question, step and conversation as soon as it is there.
        on_usage: called in the end with what a server counted for all of it, where one did.
    Raises:
        Exception: whatever the engine raised first.
    """
    try:
        async with engine.image(pixels) as image:
            async with asyncio.TaskGroup() as group:
                grounder = make_grounder(settings.policy.grounding, engine, image, settings.pack, settings.find_objects)
                candidates = partial(engine.candidates, image)
                tasks = [
                    group.create_task(_conversation(candidates, grounder, image_id, kind, settings, on_event))
                    for kind in settings.kinds
                ]
            if on_usage is not None and (usage := engine.usage(image)) is not None:
                on_usage(usage)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None  # the first to fail; the others were cancelled for it
    return [task.result() for task in tasks]


async def _conversation(
    candidates: Candidates,
    grounder: Grounder | None,
    image_id: str,
    kind: Kind,
    settings: ConversationSettings,
    on_event: Callable[[Kind, ConversationEvent], None] | None,
) -> Conversation:
    if settings.max_tokens is not None:
        candidates = _Limited(candidates, settings.max_tokens)

    async def complete(request: Request) -> Completion:
        return (await candidates(request))[0]

    emit = partial(on_event, kind) if on_event is not None else None
    begin = partial(converse, complete, settings.pack)
    if settings.question is not None:
        begin = partial(answer_question, complete, settings.pack, settings.question)
    made = await begin(
        kind=kind,
        policy=settings.policy,
        seed_key=f"{settings.seed}/{image_id}",
        candidates=candidates,
        grounder=grounder,
        on_event=emit,
    )
    if emit is not None:
        emit(made)
    return made


class _Limited:
    """Answers until so many tokens are decoded, and then with nothing, as at a token limit."""

    def __init__(self, candidates: Candidates, max_tokens: int) -> None:
        self._candidates, self._left = candidates, max_tokens

    async def __call__(self, request: Request) -> list[Completion]:
        if self._left <= 0:
            return [Completion("", Stop.LENGTH, 0, None)] * request.n
        completions = await self._candidates(replace(request, max_tokens=min(request.max_tokens, self._left)))
        self._left -= sum(one.num_tokens for one in completions)
        return completions
