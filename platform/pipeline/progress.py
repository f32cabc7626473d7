"""How far a run is, counted from what is committed, so that the numbers are what a kill would leave and mean the same
on one machine or many.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from vigc.platform.dataset.ledger import CommittedFile, Ledger, tally_of
from vigc.platform.dataset.tally import Tally
from vigc.platform.storage import Folder

INTERVAL_S = 1.0
NUM_READERS = 16
MAX_MOMENTS = 4096


@dataclass(frozen=True, slots=True)
class Progress:
    """Counts of images, those of earlier runs of the pass included; the rate is this run's alone."""

    done: int
    total: int
    kept: int  # images with at least one kept conversation
    failed: int
    images_per_s: float | None  # None until the first images of this run are committed
    seconds_left: float | None
    is_stopping: bool = False  # asked to stop, and finishing what is under way
    # When (in time.monotonic's seconds) how many were done: at each commit of this run, where there are many at some.
    moments: tuple[tuple[float, int], ...] = ()
    tally: Tally = field(default_factory=Tally)  # of all rows, those of earlier runs included
    num_under_way: int = 0  # images whose conversations have begun and are not committed, at most
    spent: float | None = None  # money, where whoever reports knows the prices
    to_spend: float | None = None  # until all images are done


OnProgress = Callable[[Progress], bool | None]  # True: it is enough


class Counter:
    """Counts what is committed, from any thread."""

    def __init__(self, total: int, before: Tally) -> None:
        self._total, self._before, self._made = total, before, Tally()
        self._started = time.monotonic()
        self._moments: list[tuple[float, int]] = []  # of every so many commits, and of the last
        self._commits, self._commits_per_moment = 0, 1
        self._lock = threading.Lock()
        self.is_stopping = self.was_interrupted = False
        self.num_under_way = 0

    def stop(self, *, is_interrupt: bool = False) -> None:
        """Asks the run to finish what is under way and to begin nothing more; an interrupt is Ctrl-C."""
        self.was_interrupted = is_interrupt
        self.is_stopping = True

    def add(self, tally: Tally) -> None:
        with self._lock:
            self._made += tally
            self._note_moment()

    def _note_moment(self) -> None:
        if self._moments and (self._commits - 1) % self._commits_per_moment:
            self._moments.pop()  # it was kept only because it was the last
        self._moments.append((time.monotonic(), self._before.rows + self._made.rows))
        self._commits += 1
        if len(self._moments) > MAX_MOMENTS:
            self._moments = [*self._moments[:-1:2], self._moments[-1]]
            self._commits_per_moment *= 2

    @property
    def num_made(self) -> int:
        return self._made.rows

    def read(self) -> Progress:
        with self._lock:
            made, now, moments = self._made, self._before + self._made, tuple(self._moments)
        rate = made.rows / (time.monotonic() - self._started) if made.rows else None
        left = (self._total - now.rows) / rate if rate else None
        return Progress(
            now.rows, self._total, now.kept, now.failed, rate, left, self.is_stopping, moments, now, self.num_under_way
        )


def tally_before(folder: Folder, ledger: Ledger) -> Tally:
    """What earlier runs have committed; of unfinished shards the ends of the files are read."""

    def read(one: CommittedFile) -> Tally:
        return one.tally or tally_of(folder.open_parquet(one.file).schema_arrow)

    total = Tally()
    with ThreadPoolExecutor(NUM_READERS) as readers:
        for tally in readers.map(read, [*ledger.finished, *ledger.blocks.values()]):
            total += tally
    return total


@contextmanager
def reported(counter: Counter, on_progress: OnProgress | None) -> Iterator[None]:
    """Calls `on_progress` about once a second while the block runs, from a thread of its own, and once more at the end;
    where it returns True, the run is asked to stop.

    An exception in `on_progress` ends the reports and is raised when the block is over.
    """
    if on_progress is None:
        yield
        return
    finished = threading.Event()
    failures: list[BaseException] = []

    def report() -> None:
        try:
            while not finished.wait(INTERVAL_S):
                if on_progress(counter.read()):
                    counter.stop()
        except BaseException as error:  # noqa: BLE001  raised when the block is over
            failures.append(error)

    if on_progress(counter.read()):
        counter.stop()
    thread = threading.Thread(target=report, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
    if failures:
        raise failures[0]
    on_progress(counter.read())
