"""Decode steps as CUDA graphs: a launch for each instead of hundreds."""

from __future__ import annotations

import torch
from torch import Tensor

from vigc.model.engines.continuous.cache import SlotCache
from vigc.model.engines.continuous.decoder import Decoder

_APART = 16  # a graph for every so many slots


class Recorded:
    """`Decoder.step`, recorded at its first use for each number of slots, and replayed from then on.

    What a graph reads and writes stays where it is: tokens, cache and logits. Slots beyond those asked for are not
    occupied, so they stay at position 0, and nobody looks at what they say. On a CPU, nothing is recorded.
    """

    def __init__(self, decoder: Decoder, tokens: Tensor, cache: SlotCache) -> None:
        """
        Args:
            tokens: (num_slots,), what each slot reads next.
        """
        self._decoder, self._tokens, self._cache = decoder, tokens, cache
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle() if tokens.is_cuda else None

    def __call__(self, tokens: Tensor, cache: SlotCache, width: int) -> Tensor:
        """As `Decoder.step`; the logits hold until the next call."""
        active = len(tokens)
        size = min(-(-active // _APART) * _APART, len(self._tokens))
        if not tokens.is_cuda:
            return self._decoder.step(tokens, cache, width)
        if size not in self._graphs:
            logits = self._decoder.step(self._tokens[:size], cache, width)  # compiles what a recording cannot
            self._graphs[size] = self._record(size)
            return logits[:active]
        graph, logits = self._graphs[size]
        graph.replay()
        return logits[:active]

    def _record(self, size: int) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            logits = self._decoder.step(self._tokens[:size], self._cache, self._cache.length)
        return graph, logits
