"""A short run on some of the real images, to learn how fast the real one will be.

It is the real one, on a sample of its images, into a folder that is thrown away; only its blocks are smaller, so that
there is something to count. The clock runs from when the engine is full: Ray's start and the model's are left out.
"""

from __future__ import annotations

import signal
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vigc.jobs.generate.config import GenerateConfig
from vigc.jobs.generate.plan import Plan, make_plan
from vigc.jobs.generate.run import run_pipeline
from vigc.platform.dataset.layout import rows_per_block
from vigc.platform.pipeline.run import Progress
from vigc.platform.planning import MIN_POINTS, Rate, rate_of
from vigc.platform.records import InputError
from vigc.platform.sources import Source
from vigc.platform.sources.selection import Selection

MAX_SAMPLE = 20_000  # images; more than any probe gets through


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found."""

    rate: Rate  # of one actor
    num_images: int  # that were counted
    seconds: float  # of those
    bytes_per_image: float  # of committed rows
    failed: float  # share of the images
    tokens: tuple[float, float] | None  # that a server counted for an image, read and written
    plan: Plan


def probe(
    config: GenerateConfig, seconds: float, *, on_progress: Callable[[Progress], None] | None = None
) -> ProbeResult:
    """Runs one actor for so long, from when its engine is full, or until the images of the source are done.

    Where images take so long that so few seconds hold none, it goes on until there are enough for a rate.

    Raises:
        VigcError: what `vigc generate` would raise, or too little was done for a rate.
    """
    with tempfile.TemporaryDirectory(prefix="vigc-probe-") as folder:
        plan = make_plan(config.model_copy(update={"out": str(Path(folder) / "data"), "actors": (1, 1)}))
        source = _source(plan)
        sample = Selection(source, sample=MAX_SAMPLE, seed=config.seed)
        pass_ = plan.store.create_pass(
            plan.request,
            sample,
            rows_per_block=min(rows_per_block(num_images_of(sample)), max(1, plan.engine.most_slots // 8)),
            vocabulary=plan.vocabulary,
        )
        plan = plan.with_abilities()
        watch = _ProbeProgress(seconds, plan.engine.most_slots, on_progress)
        try:
            run_pipeline(plan, pass_, watch)
        except KeyboardInterrupt:
            if not watch.is_enough:
                raise
        ledger = pass_.ledger()
        sizes = [one.num_bytes for one in ledger.blocks.values()] + [one.num_bytes for one in ledger.finished]
        if not sizes:
            raise InputError("No image was done. Give the probe more --probe-seconds.")
        counted = watch.counted()
        return ProbeResult(
            rate=rate_of(watch.points, watch.skip),
            num_images=counted[-1][1] - counted[0][1],
            seconds=counted[-1][0] - counted[0][0],
            bytes_per_image=sum(sizes) / ledger.num_rows,
            failed=watch.failed / max(1, watch.points[-1][1]),
            tokens=watch.tokens,
            plan=plan,
        )


def num_images_of(source: Source) -> int:
    """Reads it to its end where it cannot tell otherwise."""
    known = source.num_images()
    return sum(table.num_rows for table in source.tables()) if known is None else known


class _ProbeProgress:
    """Notes how many images are done when, and ends the run when that is enough."""

    def __init__(self, seconds: float, num_slots: int, on_progress: Callable[[Progress], None] | None) -> None:
        self._seconds, self._num_slots, self._on_progress = seconds, num_slots, on_progress
        self.points: tuple[tuple[float, int], ...] = ()
        self.failed = 0
        self.tokens: tuple[float, float] | None = None
        self.is_enough = False

    @property
    def skip(self) -> int:
        """Images that came while the engine was filling up; fewer where there are few in all."""
        done = self.points[-1][1] if self.points else 0
        return min(self._num_slots, done // 3)

    def counted(self) -> list[tuple[float, int]]:
        return [point for point in self.points if point[1] >= self.skip] or [(0.0, 0)]

    def __call__(self, now: Progress) -> None:
        if self.is_enough:
            return
        if self._on_progress is not None:
            self._on_progress(now)
        self.points, self.failed = now.moments, now.failed
        if now.done and (usage := now.tally.usage).num_prompt:
            self.tokens = usage.num_prompt / now.done, usage.num_completion / now.done
        full = [at for at, done in self.points if done >= self._num_slots]
        if len(full) >= MIN_POINTS and time.monotonic() - full[0] >= self._seconds:
            self.is_enough = True
            _press_ctrl_c()
            time.sleep(0.5)  # the first asks the run to finish what is under way, the second not to
            _press_ctrl_c()


def _press_ctrl_c() -> None:
    """In the main thread, which may be waiting for Ray and has to be woken."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def _source(plan: Plan) -> Source:
    if plan.source is None:
        raise ValueError("a plan for a folder that is new has a source")
    return plan.source
