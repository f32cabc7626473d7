"""Several continuous engines as one, each on cores of its own.

The operations of a small model's step last microseconds, so threads that share a step gain next to nothing: they spend
their time waiting for each other. Replicas share no step, but they share Python, which runs one thread at a time: with
few conversations in each they mostly wait for that. So one is well filled before the next gets any. An image belongs
to one replica from first to last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from vigc.model.completion import Request
from vigc.model.cores import num_cores
from vigc.model.engines.base import Encode, ImageHandle, NetworkEngine
from vigc.model.engines.continuous.capacity import context_length, slots_to_use
from vigc.model.engines.continuous.engine import ContinuousEngine
from vigc.model.engines.interface import Blank
from vigc.model.engines.metrics import EngineMetrics
from vigc.model.network import Network

_SMALL = 2**28  # bytes of a language model that is bound by its many short operations, not by arithmetic or memory
_FILLED = 0.25  # images for each slot of a replica before the next gets any
_MOST_REPLICAS = 4  # between its operations each is in Python, where there may be one at a time


class ReplicatedEngine(NetworkEngine):
    """See the module."""

    def __init__(self, engines: Sequence[ContinuousEngine]) -> None:
        super().__init__(engines[0].network, num_slots=sum(engine.num_slots for engine in engines))
        self.engines = list(engines)
        self._replica_of: dict[ImageHandle, ContinuousEngine] = {}

    @property
    def is_alive(self) -> bool:
        return all(engine.is_alive for engine in self.engines)

    @property
    def num_under_way(self) -> int:
        return sum(engine.num_under_way for engine in self.engines)

    @property
    def num_in_use(self) -> int:
        return sum(engine.num_in_use for engine in self.engines)

    @property
    def occupancy(self) -> float:
        """Mean share of slots that were occupied in a decode step, since the start; 0 before the first."""
        places = sum(engine.metrics.num_steps * engine.num_slots for engine in self.engines)
        return self.metrics.num_occupied / places if places else 0.0

    @property
    def metrics(self) -> EngineMetrics:
        """What all have done together, up to now."""
        return EngineMetrics.of([engine.metrics for engine in self.engines])

    def reset_metrics(self) -> None:
        for engine in self.engines:
            engine.reset_metrics()

    def check(self, request: Request) -> None:
        self.engines[0].check(request)

    def close(self) -> None:
        for engine in self.engines:
            engine.close()

    async def submit(self, image: ImageHandle | Blank, work: Any) -> Any:
        if isinstance(work, Encode) and isinstance(image, ImageHandle):
            self._replica_of[image] = self._replica_for_image()
        return await self._replica(image).submit(image, work)

    def release(self, handle: ImageHandle) -> None:
        self._replica_of.pop(handle).release(handle)

    def _replica_for_image(self) -> ContinuousEngine:
        num_images = Counter(self._replica_of.values())
        for engine in self.engines:
            if num_images[engine] < engine.num_slots * _FILLED:
                return engine
        return min(self.engines, key=lambda engine: num_images[engine])

    def _replica(self, image: ImageHandle | Blank) -> ContinuousEngine:
        if isinstance(image, ImageHandle) and image in self._replica_of:
            return self._replica_of[image]
        return min(self.engines, key=lambda engine: engine.num_under_way)  # no image, or one that was closed


def continuous_engine(
    network: Network, *, num_slots: int | None = None, memory_bytes: int | None = None, num_threads: int | None = None
) -> ContinuousEngine | ReplicatedEngine:
    """One engine, or one for every core or few, where that is faster.

    Args:
        num_slots: of all together; None: as many as memory suggests.
        memory_bytes: for slots and images of all together; None: what is free.
    Raises:
        ConfigError: not even one slot fits into memory.
    """
    threads = num_threads or num_cores()
    slots = slots_to_use(network, context_length(network), num_slots, memory_bytes)
    num = min(_num_replicas(network, threads), slots)
    engines = [
        ContinuousEngine(network, num_slots=slots // num + (number < slots % num), num_threads=threads // num)
        for number in range(num)
    ]
    return engines[0] if num == 1 else ReplicatedEngine(engines)


def _num_replicas(network: Network, threads: int) -> int:
    weights = sum(weight.nbytes for weight in network.language_model.parameters())
    return min(threads, _MOST_REPLICAS) if network.device.type == "cpu" and weights <= _SMALL else 1
