"""The metrics of a running job for Prometheus, through Ray: every node answers scrapes on its metrics port.

All names stand here once. Ray writes `ray_` before them and, for counters, `_total` behind; `exported_names` is what
`cluster/grafana.json` may ask for. The driver tells what is committed, each actor what its engine is doing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

INTERVAL_S = 2.0
RUN_TAG = "run"  # the data set's address and the pass


class MetricKind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True)
class RunMetric:
    name: str
    kind: MetricKind
    description: str
    tags: tuple[str, ...] = ()  # besides RUN_TAG

    @property
    def exported_name(self) -> str:
        return f"ray_{self.name}_total" if self.kind is MetricKind.COUNTER else f"ray_{self.name}"


def _counter(name: str, description: str, *tags: str) -> RunMetric:
    return RunMetric(name, MetricKind.COUNTER, description, tags)


def _gauge(name: str, description: str, *tags: str) -> RunMetric:
    return RunMetric(name, MetricKind.GAUGE, description, tags)


# Of the driver.
IMAGES = _counter("vigc_images", "Images whose rows were committed in this run.")
FAILED = _counter("vigc_images_failed", "Images of these that failed.", "reason")
TOKENS = _counter("vigc_tokens", "Tokens of the conversations committed in this run.")
DONE = _gauge("vigc_images_done", "Images with a committed row, those of earlier runs included.")
REQUESTED = _gauge("vigc_images_requested", "Images that were asked for.")
SECONDS_LEFT = _gauge("vigc_seconds_left", "Estimate of the time until all images are committed, in seconds.")
CHAIR = _gauge("vigc_chair_i", "Share of named objects that are absent, of all rows so far.", "answer")
COST = _gauge("vigc_cost", "Cost of the pass so far, in the currency of the prices.")

# Of each actor.
SLOTS = _gauge("vigc_slots", "Conversations that the engines can decode at once.")
SLOTS_IN_USE = _gauge("vigc_slots_in_use", "Conversations that are being decoded.")
WAITING = _gauge("vigc_requests_waiting", "Requests that wait for a slot.")
UNDER_WAY = _gauge("vigc_images_under_way", "Images that actors have taken and not yet answered.")

OF_DRIVER = (IMAGES, FAILED, TOKENS, DONE, REQUESTED, SECONDS_LEFT, CHAIR, COST)
OF_ACTOR = (SLOTS, SLOTS_IN_USE, WAITING, UNDER_WAY)


def exported_names() -> set[str]:
    return {metric.exported_name for metric in (*OF_DRIVER, *OF_ACTOR)}


class Meters:
    """Some metrics of one run, in a process that Ray knows."""

    def __init__(self, metrics: tuple[RunMetric, ...], run: str) -> None:
        from ray.util.metrics import Counter, Gauge

        classes = {MetricKind.COUNTER: Counter, MetricKind.GAUGE: Gauge}
        self._meters: dict[RunMetric, Any] = {}
        self._counted: dict[tuple[RunMetric, tuple[str, ...]], float] = {}
        for metric in metrics:
            meter = classes[metric.kind](metric.name, metric.description, tag_keys=(RUN_TAG, *metric.tags))
            meter.set_default_tags({RUN_TAG: run})
            self._meters[metric] = meter

    def set(self, metric: RunMetric, value: float, **tags: str) -> None:
        """Sets a metric; the value of a counter is how much it has counted by now."""
        if metric.kind is MetricKind.GAUGE:
            self._meters[metric].set(value, tags)
            return
        key = (metric, tuple(tags.values()))
        if (more := value - self._counted.get(key, 0.0)) > 0:
            self._meters[metric].inc(more, tags)
            self._counted[key] = value


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """How busy an actor's engine is."""

    num_slots: int
    num_in_use: int
    num_waiting: int  # requests without a slot


def keep_telling(run: str, read: Callable[[], Mapping[RunMetric, float]]) -> None:
    """Sets the metrics of an actor every INTERVAL_S, from a thread that ends with the process."""
    meters = Meters(OF_ACTOR, run)

    def tell() -> None:
        while True:
            for metric, value in read().items():
                meters.set(metric, value)
            time.sleep(INTERVAL_S)

    threading.Thread(target=tell, name="metrics", daemon=True).start()


def of_load(load: EngineLoad | None, num_images: int) -> dict[RunMetric, float]:
    """
    Args:
        load: None where there is no engine at the moment.
        num_images: that the actor has taken and not yet answered.
    """
    if load is None:
        return {SLOTS: 0, SLOTS_IN_USE: 0, WAITING: 0, UNDER_WAY: num_images}
    return {SLOTS: load.num_slots, SLOTS_IN_USE: load.num_in_use, WAITING: load.num_waiting, UNDER_WAY: num_images}
