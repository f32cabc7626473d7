"""How far a run is, read off the committed row files, so that the figures are what a kill would leave and mean the
same on one machine or many.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow.parquet as pq

from vigc.platform.passes import ROWS_FOLDER, Pass, readable
from vigc.platform.records import RowStatus, Verdict

POLL_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Counts of images, those of earlier runs of the pass included; the rate is this run's alone."""

    done: int
    total: int
    kept: int  # images with at least one kept conversation
    failed: int
    images_per_s: float | None  # None until the first images of this run are committed
    seconds_left: float | None


class ProgressReader:
    """Reads each committed file once, however often it is asked."""

    def __init__(self, pass_: Pass) -> None:
        self._pass = pass_
        self._total = pass_.num_requested
        self._known: set[str] = set()
        self._done = self._kept = self._failed = 0
        self._read_new_files()
        self._done_before, self._started = self._done, time.monotonic()

    def read(self) -> Progress:
        self._read_new_files()
        made = self._done - self._done_before
        rate = made / (time.monotonic() - self._started) if made else None
        left = (self._total - self._done) / rate if rate else None
        return Progress(self._done, self._total, self._kept, self._failed, rate, left)

    def _read_new_files(self) -> None:
        for name in self._pass.committed_files():
            if name in self._known:
                continue
            self._known.add(name)
            with readable(self._pass.rows_dir / name):
                file = pq.ParquetFile(f"{ROWS_FOLDER}/{name}", filesystem=self._pass.files)
                table = file.read(columns=["status", "conversations.list.element.status"])
            for row in table.to_pylist():
                self._done += 1
                self._failed += row["status"] == RowStatus.FAILED
                self._kept += any(c["status"] == Verdict.KEPT for c in row["conversations"] or [])


@contextmanager
def reported(pass_: Pass, on_progress: Callable[[Progress], None] | None) -> Iterator[None]:
    """Calls `on_progress` about once a second while the block runs, from a thread of its own, and once more at the end.

    An exception in `on_progress` ends the reports and is raised when the block is over.
    """
    if on_progress is None:
        yield
        return
    reader = ProgressReader(pass_)
    finished = threading.Event()
    failures: list[BaseException] = []

    def report() -> None:
        try:
            while not finished.wait(POLL_INTERVAL_S):
                on_progress(reader.read())
        except BaseException as error:  # noqa: BLE001  raised when the block is over
            failures.append(error)

    on_progress(reader.read())
    thread = threading.Thread(target=report, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
    if failures:
        raise failures[0]
    on_progress(reader.read())
