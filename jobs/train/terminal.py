"""What `vigc train` shows while it runs: what it is about to do, then a line with step, loss, rate and time left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vigc.jobs.terminal import make_console

if TYPE_CHECKING:
    from rich.console import Console

    from vigc.jobs.train.plan import TrainPlan

LINE_EVERY_S = 10.0  # where the output is no terminal


class TrainLine:
    """On a terminal one line that is rewritten, elsewhere a line now and then."""

    def __init__(self, console: Console | None, plan: TrainPlan) -> None:
        self._console = console or make_console()
        self._plan, self._first, self._printed = plan, None, 0.0
        self._status: Any = None
        self._began: tuple[int, float] | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        plan, recipe = self._plan, self._plan.recipe
        fewest, most = plan.fewest_workers, plan.num_workers
        workers = str(most) if fewest == most else f"{fewest} to {most}"
        name = f"{recipe.name}, {recipe.stage}," if recipe.stage else recipe.name
        for described in plan.data.described:
            self._console.print(f"learns from {described}", soft_wrap=True)
        self._console.print(
            f"{name} on {plan.model.name}: {plan.num_updates:,} updates of {recipe.batch_size} samples from "
            f"{plan.data.about}; {workers} worker(s), {plan.hardware}, {recipe.parallel}, {recipe.precision}",
            soft_wrap=True,
        )
        with self._console.status("starting Ray and the workers …") as status:
            self._status = status
            yield

    def report(self, metrics: dict[str, Any]) -> None:
        now = time.monotonic()
        if self._began is None or metrics["update"] < self._began[0]:
            self._began = (metrics["update"], now)
        line = self._line(metrics, now)
        self._status.update(line)
        if not self._console.is_terminal and (now - self._printed >= LINE_EVERY_S or "val_loss" in metrics):
            self._printed = now
            self._console.print(line, soft_wrap=True)

    def note(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, soft_wrap=True)

    def _line(self, metrics: dict[str, Any], now: float) -> str:
        num, update = self._plan.num_updates, metrics["update"]
        parts = [f"update {update:,}/{num:,}", f"loss {metrics['loss']:.4f}", f"lr {metrics['learning_rate']:.2g}"]
        parts.append(f"{metrics['samples_per_s']:.1f} samples/s")
        if "val_loss" in metrics:
            parts.append(f"validation {metrics['val_loss']:.4f}")
        assert self._began is not None
        done, took = update - self._began[0], now - self._began[1]
        if done > 0:
            parts.append(f"{_clock((num - update) * took / done)} left")
        return "  ".join(parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes}:{rest:02}"
