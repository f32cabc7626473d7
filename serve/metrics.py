"""Figures for Prometheus: told to Ray, which every node exports, and read back for /metrics from all nodes at once.

So /metrics says the same whichever gateway answers, some seconds late. Serve's own metrics (queues, replicas,
latencies of each deployment) stand beside ours.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp

PREFIXES = ("ray_vigc_", "ray_serve_")
SCRAPE_S = 5.0
_SECONDS = [0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300]


class Metrics:
    """What a gateway counts. This one counts for itself alone; see RayMetrics."""

    num_open = 0

    @contextmanager
    def open(self) -> Iterator[None]:
        """A request is being answered."""
        self.num_open += 1
        self.opened()
        try:
            yield
        finally:
            self.num_open -= 1
            self.opened()

    def opened(self) -> None:
        """The number of open requests has changed."""

    def closed(self, route: str, status: int) -> None:
        """A request was answered; status 0: its client left."""

    def watch(self) -> RequestTimer:
        """For a request that asks for an answer of the model."""
        return RequestTimer(self)

    def first_sentence(self, seconds: float) -> None:
        """So long after its request came the first sentence of a streamed answer."""

    def answered(self, seconds: float, num_tokens: int) -> None:
        """So long after its request an answer was complete."""


class RequestTimer:
    """The time of one request."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics, self._began, self._has_said = metrics, time.monotonic(), False

    def said(self) -> None:
        if not self._has_said:
            self._has_said = True
            self._metrics.first_sentence(time.monotonic() - self._began)

    def done(self, num_tokens: int) -> None:
        self._metrics.answered(time.monotonic() - self._began, num_tokens)


class RayMetrics(Metrics):
    """The same, told to Ray."""

    def __init__(self) -> None:
        from ray.serve.metrics import Counter, Gauge, Histogram

        self._open = Gauge("vigc_requests_open", description="Requests that a gateway is answering.")
        tags: Any = ("route_path", "status")  # annotated by Ray as one tag only
        self._closed = Counter("vigc_requests", description="Requests that were answered.", tag_keys=tags)
        self._first = Histogram(
            "vigc_first_sentence_seconds",
            description="From a request to the first sentence of a streamed answer of VIC's.",
            boundaries=_SECONDS,
        )
        self._answer = Histogram(
            "vigc_answer_seconds", description="From a request to the end of its answer.", boundaries=_SECONDS
        )
        self._tokens = Counter("vigc_tokens", description="Tokens decoded; its rate is tokens/s.")

    def opened(self) -> None:
        self._open.set(self.num_open)

    def closed(self, route: str, status: int) -> None:
        self._closed.inc(tags={"route_path": route, "status": str(status or 499)})

    def first_sentence(self, seconds: float) -> None:
        self._first.observe(seconds)

    def answered(self, seconds: float, num_tokens: int) -> None:
        self._answer.observe(seconds)
        if num_tokens:
            self._tokens.inc(num_tokens)


async def scrape() -> str:
    """What all nodes export of PREFIXES, in Prometheus' text form."""
    import ray

    nodes = [node for node in await asyncio.to_thread(ray.nodes) if node["Alive"] and node["MetricsExportPort"] > 0]
    timeout = aiohttp.ClientTimeout(total=SCRAPE_S)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
        texts = await asyncio.gather(
            *(_export(session, node["NodeManagerAddress"], node["MetricsExportPort"]) for node in nodes)
        )
    return _merged(texts)


async def _export(session: aiohttp.ClientSession, host: str, port: int) -> str:
    async with session.get(f"http://{host}:{port}/metrics") as response:
        return await response.text()


def _merged(texts: list[str]) -> str:
    """The lines of each figure together, with its HELP and TYPE once, as the form wants it."""
    families: dict[str, dict[str, None]] = {}
    name = ""
    for text in texts:
        for line in text.splitlines():
            if line.startswith(("# HELP ", "# TYPE ")):
                name = line.split(" ", 3)[2]
            if name.startswith(PREFIXES):
                families.setdefault(name, {}).setdefault(line)
    return "".join(f"{line}\n" for lines in families.values() for line in lines)
