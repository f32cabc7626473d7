"""The actor of a run: one network and one engine, and many images talked about at once.

Ray Data calls it with several batches at a time, all on one event loop; what is asked for any image waits in the same
engine, which is what keeps its slots full. Heavy imports happen in the constructor, so the driver stays light.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vigc.model.conversation.grounding import Grounding
from vigc.model.conversation.image import ConversationSettings, hold_conversations
from vigc.model.engines.settings import EngineSettings
from vigc.model.engines.start import start_engine
from vigc.platform.pipeline.metrics import EngineLoad
from vigc.platform.records import ConfigError, RowStatus
from vigc.platform.vocabulary import Vocabulary

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """All that a worker needs to know; prompts travel with it, so no file of the driver's machine is read."""

    engine: EngineSettings
    conversations: ConversationSettings  # without `find_objects`, which each worker builds
    pass_number: str
    vocabulary: Vocabulary | None = None  # of the objects that the model is asked about


class Worker:
    """See the module."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
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

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        import pyarrow as pa

        from vigc.platform.schema import ROW

        rows = await asyncio.gather(*(self._row(values) for values in batch.to_pylist()))
        yield pa.Table.from_pylist(rows, schema=ROW)

    async def _row(self, values: dict[str, Any]) -> dict[str, Any]:
        """One image: its record with conversations, or with the reason why there are none."""
        from vigc.model.engines.interface import EngineLost
        from vigc.platform.schema import to_dict

        row = values | {
            "status": RowStatus.FAILED.value,
            "error": None,
            "conversations": [],
            "pass": self._settings.pass_number,
        }
        if values["error_kind"] is not None:
            return row | {"error": {"kind": values["error_kind"], "message": values["error_message"]}}
        try:
            conversations = await hold_conversations(
                self._engine, values["image_id"], values["pixels"], self._conversation_settings
            )
        except ConfigError:
            raise  # a setting that the engine refuses would fail every image alike
        except EngineLost as error:
            # Whatever killed it may have been this image: that is found out by who sees this process end (stages.py).
            print(error, file=sys.stderr, flush=True)  # noqa: T201
            os._exit(1)
        except Exception as error:  # noqa: BLE001  the engine's, about this image; it becomes data, the others go on
            return row | {"error": {"kind": "engine", "message": f"{type(error).__name__}: {error}"}}
        return row | {"status": RowStatus.OK.value, "conversations": [to_dict(spoken) for spoken in conversations]}
