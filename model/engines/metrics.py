"""What an engine's time went into, and how much it decoded."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

VISION, QFORMER, PREFILL, DECODE, HOST = "vision", "qformer", "prefill", "decode", "host"
PARTS = (VISION, QFORMER, PREFILL, DECODE, HOST)


class EngineMetrics:
    """Counts since its engine began. Seconds of a GPU's parts are those of launching them, unless `is_exact`: then the
    engine waits for each, which costs time itself.
    """

    def __init__(self, device: torch.device) -> None:
        self.is_exact = False
        self.seconds: dict[str, float] = defaultdict(float)
        self.num_images = 0  # seen by the vision model
        self.num_calls = 0  # prompts that the Q-Former has read
        self.num_qformer = 0  # positions of its queries and texts, padding counted
        self.num_prefilled = 0  # positions, padding not counted
        self.num_scored = 0  # positions of given texts that were read for their scores, padding not counted
        self.num_passes = 0  # over given texts
        self.num_decoded = 0  # tokens
        self.num_steps = 0
        self.num_occupied = 0  # slots, summed over the steps
        self.num_seen = 0  # positions that decoded tokens looked back on, in all
        self.num_replicas = 1  # engines beside each other that it counts for
        self._device = device

    @classmethod
    def of(cls, parts: Sequence[EngineMetrics]) -> EngineMetrics:
        """What engines beside each other have done together. Seconds are the mean, so that their shares of the time
        that passed are right; of a step of one of them they are `num_replicas` times as many.
        """
        whole = cls(parts[0]._device)
        whole.num_replicas = len(parts)
        for name in vars(whole):
            if name.startswith("num_") and name != "num_replicas":
                setattr(whole, name, sum(getattr(one, name) for one in parts))
        for part in PARTS:
            whole.seconds[part] = sum(one.seconds[part] for one in parts) / len(parts)
        return whole

    @property
    def mean_context(self) -> float:
        """Positions that a decoded token looked back on."""
        return self.num_seen / max(1, self.num_occupied)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            if self.is_exact and self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self.seconds[name] += time.perf_counter() - began
