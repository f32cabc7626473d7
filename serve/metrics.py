"""Metrics for Prometheus: recorded with Ray, exported by every node, and collected from all nodes for /metrics.

So /metrics gives the same values whichever gateway answers, some seconds late. Ray Serve's own metrics (queues,
replicas, latencies of each deployment) stand beside ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp

PREFIXES = ("ray_vigc_", "ray_serve_")
SCRAPE_S = 5.0
_SECONDS = [0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300]


class Metrics:
    """What a gateway measures. This class exports nothing; see RayMetrics."""

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
        """Called when the number of open requests has changed."""

    def closed(self, route: str, status: int) -> None:
        """A request has ended; status 0: its client left before it was answered."""

    def first_sentence(self, seconds: float) -> None:
        """The first sentence of a streamed answer has come, so long after its task was sent."""

    def answered(self, seconds: float, num_tokens: int) -> None:
        """An answer is complete, so long after its task was sent."""


class RayMetrics(Metrics):
    """Recorded with Ray."""

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
    """The metrics of all nodes that begin with PREFIXES, in Prometheus' text format."""
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
    """The lines of each metric together, with its HELP and TYPE once, as the format wants it."""
    families: dict[str, dict[str, None]] = {}
    name = ""
    for text in texts:
        for line in text.splitlines():
            if line.startswith(("# HELP ", "# TYPE ")):
                name = line.split(" ", 3)[2]
            if name.startswith(PREFIXES):
                families.setdefault(name, {}).setdefault(line)
    return "".join(f"{line}\n" for lines in families.values() for line in lines)
