"""The heartbeat of a run: its processes say that they are at work, and learn whether the run is to stop.

An actor counts the heartbeats of the stages and holds the flag that Ctrl-C sets. Slow work is no standstill: whatever
process is at work on a block sends a heartbeat every few seconds, however long the block takes. When none came for a
while, although the cluster has room for the run, Ray has stalled, which it does not notice by itself; then the stream
of blocks is broken off, to be begun anew. Ray's own limit counts finished work only, so it has to be long, half an hour
by default; it remains, for processes that are at work and never finish.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from vigc.platform.dataset.layout import Block
from vigc.platform.pipeline.capacity import Need, grows_by_itself, size_of_cluster
from vigc.platform.pipeline.progress import Counter

STOP_POLL_S = 0.5
MAX_INTERVAL_S = 10.0
CHECK_S = 5.0
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stalled(Exception):
    """No process was at work for too long, and nothing was missing for it."""


class Heartbeat:
    """A handle on the heartbeat of one run; every stage holds one, in whatever process it runs."""

    def __init__(self, actor: Any, stall_timeout_s: float) -> None:
        """
        Args:
            actor: of `_State`.
            stall_timeout_s: without a heartbeat for so long, the run has stalled.
        """
        self._actor = actor
        self._stall_timeout_s = stall_timeout_s
        self.interval_s = min(MAX_INTERVAL_S, stall_timeout_s / 4)

    def begin(self, block: Block) -> None:
        """Notes that a block's conversations have begun."""
        self._actor.begin.remote(block)

    def end(self, block: Block) -> None:
        """Notes that a block is committed, or was not begun."""
        self._actor.end.remote(block)

    def beat(self) -> None:
        self._actor.beat.remote()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Sends heartbeats as long as the block lasts."""
        over = threading.Event()

        def send() -> None:
            while not over.wait(self.interval_s):
                self.beat()

        self.beat()
        thread = threading.Thread(target=send, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            self.beat()

    def is_stopping(self) -> bool:
        """Whether the run is to come to its end, which is known half a second later at most."""
        import ray

        known = self._known()
        return self._note(ray.get(self._actor.is_stopping.remote())) if known is None else known

    async def is_stopping_async(self) -> bool:
        """The same for those who share an event loop."""
        known = self._known()
        return self._note(await self._actor.is_stopping.remote()) if known is None else known

    def _known(self) -> bool | None:
        asked, answer = _answers.get(self._key, (-STOP_POLL_S, False))
        return answer if answer or time.monotonic() - asked < STOP_POLL_S else None

    def _note(self, answer: bool) -> bool:
        _answers.clear()  # of earlier runs that this process worked for
        _answers[self._key] = time.monotonic(), answer
        return answer

    @property
    def _key(self) -> tuple[int, bytes]:
        return os.getpid(), self._actor._actor_id.binary()

    def stall_callback(self, need: Need) -> type:
        """What Ray Data is to call at every step of its own loop; raises Stalled there.

        Args:
            need: what the cluster must have for the run to be at work; while it has less and may grow, that is waited
                for.
        """
        from ray.data._internal.execution.execution_callback import ExecutionCallback

        check = _StallCheck(self._actor, need, self._stall_timeout_s)

        class StallCallback(ExecutionCallback):
            def on_execution_step(self, executor: object) -> None:
                check()

        return StallCallback


_answers: dict[tuple[int, bytes], tuple[float, bool]] = {}


class _StallCheck:
    def __init__(self, actor: Any, need: Need, timeout_s: float) -> None:
        self._actor, self._need, self._timeout_s = actor, need, timeout_s
        self._answer: Any = None
        self._num_beats = -1
        self._beaten_at = self._checked_at = time.monotonic()
        self._says_waiting = False

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self._checked_at < min(CHECK_S, self._timeout_s / 4):
            return
        self._checked_at = now
        if self._has_beaten():
            self._beaten_at = now
        elif now - self._beaten_at >= self._timeout_s:
            self._beaten_at = now
            self._decide()

    def _has_beaten(self) -> bool:
        """Whether there was a heartbeat since the last check; answered by the check after that."""
        import ray

        if self._answer is None:
            self._answer = self._actor.num_beats.remote()
        ready, _ = ray.wait([self._answer], timeout=0)
        if not ready:
            return False
        num_beats, self._answer = ray.get(self._answer), None
        before, self._num_beats = self._num_beats, int(num_beats)
        return self._num_beats != before

    def _decide(self) -> None:
        size = size_of_cluster()
        if self._need.fits(size) or not grows_by_itself():
            raise Stalled(f"No process was at work for {_in_words(self._timeout_s)} on a cluster with {size}")
        if not self._says_waiting:
            self._says_waiting = True
            logging.getLogger(__name__).warning(
                "Waiting for the cluster to grow: it has %s, and this run needs %s.", size, self._need
            )


@contextmanager
def heartbeat_of_run(
    counter: Counter, rows_per_block: int, stall_timeout_s: float
) -> Iterator[tuple[Heartbeat, threading.Event]]:
    """The heartbeat of this driver's run, and an event that says that a stop was asked for and nothing is under way.

    The first Ctrl-C asks the stages to stop, a second is the usual KeyboardInterrupt. So do other signals that are
    handled like Ctrl-C, and `counter.stop()` asks likewise.
    """
    import ray

    node = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    state: Any = ray.remote(_State)
    actor = state.options(num_cpus=0, scheduling_strategy=node).remote()
    over, is_drained = threading.Event(), threading.Event()

    def watch() -> None:
        """Counts what is under way, and passes a stop on to the stages."""
        while not over.wait(STOP_POLL_S):
            if counter.is_stopping:
                break
            with suppress(ray.exceptions.RayError):  # whoever waits for the run's own calls reports it
                counter.num_under_way = rows_per_block * ray.get(actor.num_under_way.remote())
        if over.is_set():
            return
        actor.stop.remote()
        over.wait(3 * STOP_POLL_S)  # until all stages know
        while not over.wait(STOP_POLL_S):
            if not ray.get(actor.num_under_way.remote()):
                is_drained.set()
                return

    def ask(*_: object) -> None:
        counter.stop(is_interrupt=True)
        handle(signal.default_int_handler)

    def handle(handler: Any) -> None:
        for one in interrupting:
            signal.signal(one, handler)

    is_main = threading.current_thread() is threading.main_thread()
    interrupting = [one for one in INTERRUPTS if is_main and signal.getsignal(one) is signal.default_int_handler]
    handle(ask)
    thread = threading.Thread(target=watch, name="stop", daemon=True)
    thread.start()
    try:
        yield Heartbeat(actor, stall_timeout_s), is_drained
    finally:
        handle(signal.default_int_handler)
        over.set()
        thread.join()


class _State:
    """The actor behind the handles."""

    def __init__(self) -> None:
        self._is_stopping = False
        self._under_way: set[tuple[int, int]] = set()
        self._num_beats = 0

    def begin(self, block: tuple[int, int]) -> None:
        self._under_way.add(block)

    def end(self, block: tuple[int, int]) -> None:
        self._under_way.discard(block)

    def num_under_way(self) -> int:
        return len(self._under_way)

    def beat(self) -> None:
        self._num_beats += 1

    def num_beats(self) -> int:
        return self._num_beats

    def stop(self) -> None:
        self._is_stopping = True

    def is_stopping(self) -> bool:
        return self._is_stopping


def _in_words(seconds: float) -> str:
    return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"
