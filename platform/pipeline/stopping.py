"""The driver's side of a run's flag: an actor that all stages ask whether to stop, and tell when they work."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vigc.platform.pipeline.progress import Counter

if TYPE_CHECKING:
    from vigc.platform.pipeline.stages import StopFlag


@contextmanager
def stoppable(counter: Counter, beat_s: float) -> Iterator[tuple[StopFlag, threading.Event]]:
    """The flag that the stages look at, and an event that says that all that was under way then is committed.

    The first Ctrl-C sets the flag, a second is the usual KeyboardInterrupt.
    """
    import ray

    from vigc.platform.pipeline.stages import STOP_POLL_S, StopFlag

    node = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    flag: Any = ray.remote(_Flag)
    actor = flag.options(num_cpus=0, scheduling_strategy=node).remote()
    asked, over, is_drained = threading.Event(), threading.Event(), threading.Event()

    def pass_on() -> None:
        asked.wait()
        if over.is_set():
            return
        actor.set.remote()
        over.wait(3 * STOP_POLL_S)  # until all stages know
        while not over.wait(STOP_POLL_S):
            if not ray.get(actor.num_under_way.remote()):
                is_drained.set()
                return

    def ask(*_: object) -> None:
        counter.is_stopping = True
        asked.set()
        signal.signal(signal.SIGINT, before)

    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT) if is_main else None
    is_usual = is_main and before is signal.default_int_handler
    if is_usual:
        signal.signal(signal.SIGINT, ask)
    thread = threading.Thread(target=pass_on, name="stop", daemon=True)
    thread.start()
    try:
        yield StopFlag(actor, beat_s), is_drained
    finally:
        if is_usual:
            signal.signal(signal.SIGINT, before)
        over.set()
        asked.set()
        thread.join()


class _Flag:
    def __init__(self) -> None:
        self._is_set = False
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

    def set(self) -> None:
        self._is_set = True

    def is_set(self) -> bool:
        return self._is_set
