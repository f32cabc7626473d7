"""The actor of `vigc generate`: one engine, and many images talked about at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from vigc.jobs.row_worker import ImageResult, RowWorker
from vigc.model.conversation.grounding import Grounding
from vigc.model.conversation.image import ConversationSettings, hold_conversations
from vigc.model.engines.settings import EngineSettings
from vigc.model.engines.start import start_engine
from vigc.platform.pipeline.metrics import EngineLoad
from vigc.platform.records import TokenUsage
from vigc.platform.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """All that a worker needs to know; prompts travel with it, so no file of the driver's machine is read."""

    engine: EngineSettings
    conversations: ConversationSettings  # without `find_objects`, which each worker builds
    pass_number: str
    vocabulary: Vocabulary | None = None  # of the objects that the model is asked about


class Worker(RowWorker):
    """See the module."""

    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(settings.pass_number)
        self._conversation_settings = settings.conversations
        if settings.vocabulary is not None and settings.conversations.policy.grounding is Grounding.ASKED:
            from vigc.platform.quality.mentions import ObjectFinder

            self._conversation_settings = replace(
                settings.conversations, find_objects=ObjectFinder(settings.vocabulary).named
            )
        self._engine = start_engine(settings.engine)

    def load(self) -> EngineLoad:
        """How busy the engine is at this moment."""
        return EngineLoad(self._engine.num_slots, self._engine.num_in_use, self._engine.num_waiting)

    async def result(self, values: dict[str, Any]) -> ImageResult:
        usages: list[TokenUsage] = []
        spoken = await hold_conversations(
            self._engine,
            values["image_id"],
            values["pixels"],
            self._conversation_settings,
            on_usage=usages.append,
        )
        return ImageResult(spoken, *usages)
