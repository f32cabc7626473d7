"""Notices when nobody has been at work on a run for a while, which Ray does not by itself.

Slow work is no standstill: whatever process is at work on a block says so every few seconds, however long the block
takes. When none has, although the cluster has room for the run, Ray is stuck, and the stream of blocks is broken off to
be begun anew. Ray's own limit counts finished work only, so it has to be long, half an hour by default; it remains, for
processes that are at work and never finish.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vigc.platform.pipeline.capacity import Need, grows_by_itself, size_of_cluster

if TYPE_CHECKING:
    from vigc.platform.pipeline.stages import StopFlag

LOOK_S = 5.0


class Stalled(Exception):
    """Nobody was at work for too long, and nothing was missing for it."""


class StallDetector:
    """Looks at one stream of blocks; `look` is called often, from Ray Data's own thread, and raises Stalled there.

    Args:
        need: what the cluster must have for someone to be at work; while it has less and may grow, nobody is stuck.
        stuck_after_s: for so long nobody may be at work.
    """

    def __init__(self, stop: StopFlag, need: Need, stuck_after_s: float) -> None:
        self._stop, self._need, self._stuck_after_s = stop, need, stuck_after_s
        self._answer: Any = None
        self._num_beats = -1
        self._beaten_at = self._looked_at = time.monotonic()
        self._says_waiting = False

    def look(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < min(LOOK_S, self._stuck_after_s / 4):
            return
        self._looked_at = now
        if self._is_beating():
            self._beaten_at = now
        elif now - self._beaten_at >= self._stuck_after_s:
            self._beaten_at = now
            self._decide()

    def _is_beating(self) -> bool:
        """Whether someone was at work since the last look; answered by the look after that."""
        import ray

        if self._answer is None:
            self._answer = self._stop.num_beats()
        ready, _ = ray.wait([self._answer], timeout=0)
        if not ready:
            return False
        num_beats, self._answer = ray.get(self._answer), None
        before, self._num_beats = self._num_beats, int(num_beats)
        return self._num_beats != before

    def _decide(self) -> None:
        size = size_of_cluster()
        if self._need.fits(size) or not grows_by_itself():
            raise Stalled(f"Nobody was at work for {in_words(self._stuck_after_s)} on a cluster with {size}")
        if not self._says_waiting:
            self._says_waiting = True
            logging.getLogger(__name__).warning(
                "Waiting for the cluster to grow: it has %s, and this run needs %s.", size, self._need
            )

    def callback(self) -> type:
        """What Ray Data calls at every step of its own loop."""
        from ray.data._internal.execution.execution_callback import ExecutionCallback

        look: Callable[[], None] = self.look

        class Look(ExecutionCallback):
            def on_execution_step(self, executor: object) -> None:
                look()

        return Look


def in_words(seconds: float) -> str:
    return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"
