"""The actor of a run over images, as far as all runs have it in common: a batch of images in, a row for each out.

Ray Data calls it with several batches at a time, all on one event loop; what is asked for any image waits in the same
engine, which is what keeps its slots full. Heavy imports happen in the constructor, so the driver stays light.
"""

from __future__ import annotations

import asyncio
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vigc.platform.records import ConfigError, Conversation, RowStatus, RunError, TokenUsage

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class ImageResult:
    """What was made of one image."""

    conversations: Sequence[Conversation]
    usage: TokenUsage | None = None  # what a server counted for it


class RowWorker(ABC):
    """See the module."""

    def __init__(self, pass_number: str) -> None:
        self._pass_number = pass_number

    @abstractmethod
    async def result(self, values: dict[str, Any]) -> ImageResult:
        """Of one image, a row of `decode.DECODED`.

        Raises:
            ConfigError, RunError: every image would fail alike, so the run ends.
            EngineLost: so does this process.
            Exception: any other is about this image, and becomes its row's error.
        """

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
            "pass": self._pass_number,
            "usage": None,
        }
        if values["error_kind"] is not None:
            return row | {"error": {"kind": values["error_kind"], "message": values["error_message"]}}
        try:
            made = await self.result(values)
        except (ConfigError, RunError):
            raise
        except EngineLost as error:
            # Whatever killed it may have been this image: who sees this process end finds that out (isolation.py).
            print(error, file=sys.stderr, flush=True)  # noqa: T201
            os._exit(1)
        except Exception as error:  # noqa: BLE001  the engine's, about this image; it becomes data, the others go on
            return row | {"error": {"kind": "engine", "message": f"{type(error).__name__}: {error}"}}
        spoken = [to_dict(one) for one in made.conversations]
        return row | {"status": RowStatus.OK.value, "conversations": spoken, "usage": to_dict(made.usage)}
