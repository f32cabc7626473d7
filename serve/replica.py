"""A replica of the engine: one model, here or behind an endpoint, and many requests at once in its engine's slots.

All requests share the replica's event loop and one engine, which batches continuously: no request waits for a batch to
fill, or for a slower one beside it. A request that is cancelled frees its slot.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from vigc.model.conversation.image import ConversationEvent, ConversationSettings, hold_conversations
from vigc.model.engines.choose import ChosenModel
from vigc.model.engines.start import start_engine
from vigc.platform.quality.mentions import ObjectFinder
from vigc.platform.records import ConfigError, Conversation, Kind, TokenUsage
from vigc.serve.messages import (
    Completed,
    Counted,
    Failure,
    Fault,
    KindEvent,
    PromptTask,
    ReplicaEvent,
    ReplicaTask,
    Started,
)
from vigc.serve.settings import ServeSettings
from vigc.serve.validation import find_objects

if TYPE_CHECKING:
    from vigc.model.engines.interface import Engine

GAUGE_S = 2.0
log = logging.getLogger("ray.serve")


class EngineReplica:
    """See the module."""

    def __init__(self, settings: ServeSettings, chosen: ChosenModel) -> None:
        self._pack = chosen.pack
        named_in = find_objects(settings)
        self._find_objects = None if named_in is None else ObjectFinder(named_in.vocabulary).named
        self._engine: Engine = start_engine(settings.engine_settings(chosen))
        self._lost: str | None = None
        self._gauging: asyncio.Task[None] | None = None

    async def converse(self, task: ReplicaTask | PromptTask) -> AsyncIterator[ReplicaEvent | Failure]:
        """The events of the task's conversations as they come. Leaving the iterator early frees the slots."""
        self._gauge()
        if isinstance(task, PromptTask):
            try:
                yield await self._completed(task)
            except Exception as failed:  # noqa: BLE001  whatever it is, it is the answer
                yield self._failure(failed)
            return
        settings = ConversationSettings(
            self._pack,
            task.policy,
            task.kinds,
            task.seed,
            question=task.question,
            find_objects=self._find_objects,
            max_tokens=task.max_tokens,
        )
        yield Started(self._num_prompt_tokens(settings))
        events: asyncio.Queue[KindEvent | Counted | None] = asyncio.Queue()

        def emit(kind: Kind, event: ConversationEvent) -> None:
            if task.wants_steps or isinstance(event, Conversation):
                events.put_nowait(KindEvent(kind, event))

        def count(usage: TokenUsage) -> None:
            events.put_nowait(Counted(usage))

        work = asyncio.create_task(hold_conversations(self._engine, task.image_id, task.pixels, settings, emit, count))
        work.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            if (error := work.exception()) is not None:
                yield self._failure(error)
        finally:
            work.cancel()

    async def load(self) -> dict[str, int]:
        """Slots of the engine, and requests that it works on."""
        return {"slots": self._engine.num_slots, "requests": self._engine.num_under_way}

    async def check_health(self) -> None:
        """Called by Ray Serve, which replaces a replica when this raises."""
        if self._lost is not None or not self._engine.is_alive:
            raise RuntimeError(self._lost or "The engine's thread has ended.")

    def close(self) -> None:
        """Ends the engine; requests under way fail."""
        self._engine.close()

    async def _completed(self, task: PromptTask) -> Completed:
        asked = task.request
        async with self._engine.image(task.pixels) as image:
            found = await self._engine.candidates(image, asked)
            scored = [await self._engine.score(image, asked.prompt, f" {word}") for word in task.words]
        scores = [sum(token.logprob for token in tokens) for tokens in scored]
        return Completed(found, scores, self._engine.num_prompt_tokens(asked.prompt + asked.prefix) or 0)

    def _failure(self, error: BaseException) -> Failure:
        from vigc.model.engines.endpoint.client import ServerRefuses, ServerSilent
        from vigc.model.engines.interface import EngineLost

        if isinstance(error, ServerRefuses | ServerSilent):
            log.error("%s", error)
            return Failure(error.said, Fault.REFUSED if isinstance(error, ServerRefuses) else Fault.SILENT)
        if isinstance(error, ConfigError):
            return Failure(str(error), Fault.REQUEST)
        log.error("The engine failed: %s", error, exc_info=error)
        if isinstance(error, EngineLost):
            self._lost = str(error)
            return Failure(self._lost, Fault.REPLICA)
        return Failure(str(error), Fault.ENGINE)

    def _num_prompt_tokens(self, settings: ConversationSettings) -> int | None:
        if settings.question is None:
            return None
        prompt = self._pack.vic_prompt(self._pack.vig_prompt(settings.kinds[0]), settings.question)
        return self._engine.num_prompt_tokens(prompt)

    def _gauge(self) -> None:
        """Starts to export the engine's load; called where there is an event loop."""
        if self._gauging is None:
            self._gauging = asyncio.create_task(self._keep_gauging())

    async def _keep_gauging(self) -> None:
        from ray.serve.metrics import Gauge

        slots = Gauge("vigc_engine_slots", description="Conversations that this replica can decode at once.")
        requests = Gauge("vigc_engine_requests", description="Requests that the replica's engine works on.")
        while True:
            slots.set(self._engine.num_slots)
            requests.set(self._engine.num_under_way)
            await asyncio.sleep(GAUGE_S)
