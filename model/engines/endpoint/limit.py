"""How many requests are under way at once: as many as the server answers well.

Additive increase, multiplicative decrease, as TCP does it. While all places are taken and answers come, one more place
is added for each round of answers (twice as many until the first setback). A refusal for load (429, 503), a timeout, or
answers that take several times as long as the quickest rounds take a third of the places away, once for each round.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

FIRST, MOST = 8, 512
DECREASE = 2 / 3
AT_FIRST_S = 0.5  # length of a round where none has ended yet
SLOW = 6.0  # times as long as in the quickest round: the server queues, and more requests only wait longer


class ConcurrencyLimit:
    """For one event loop.

    Args:
        fixed: this many, always; None: it finds itself.
    """

    def __init__(self, fixed: int | None = None, most: int = MOST) -> None:
        self._fixed, self._most = fixed, most
        self._limit = float(fixed or FIRST)
        self._is_first_climb = True
        self._num_taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._latencies: list[float] = []  # of the round that is under way
        self._quickest: float | None = None  # median of the quickest round
        self._was_full = False
        self._round_began = time.monotonic()

    @property
    def limit(self) -> int:
        return int(self._limit)

    @property
    def num_taken(self) -> int:
        return self._num_taken

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """One of the places; who asks first has it first."""
        if self._num_taken < self.limit and not self._waiting:
            self._num_taken += 1
        else:
            self._was_full = True
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():  # it was given a place that it does not need any more
                    self._release()
                raise
        try:
            yield
        finally:
            self._release()

    def answered(self, seconds: float) -> None:
        """A request was answered after so long."""
        self._latencies.append(seconds)
        if len(self._latencies) < max(self.limit, FIRST):
            return
        median = statistics.median(self._latencies)
        self._quickest = median if self._quickest is None else min(self._quickest, median)
        if median > SLOW * self._quickest and self.limit > FIRST:
            self.overloaded()
        elif self._was_full and self._fixed is None:
            grown = self._limit * 2 if self._is_first_climb else self._limit + max(1.0, self._limit / 16)
            self._limit = min(float(self._most), grown)
            self._hand_out()
        self._begin_round()

    def overloaded(self) -> None:
        """The server has too much to do. Said by many requests of one round, it counts once."""
        if self._fixed is not None or time.monotonic() - self._round_began < (self._quickest or AT_FIRST_S):
            return
        self._is_first_climb = False
        self._limit = max(1.0, self._limit * DECREASE)
        self._begin_round()

    def _begin_round(self) -> None:
        self._latencies.clear()
        self._was_full = False
        self._round_began = time.monotonic()

    def _release(self) -> None:
        self._num_taken -= 1
        self._hand_out()

    def _hand_out(self) -> None:
        while self._waiting and self._num_taken < self.limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self._num_taken += 1
                turn.set_result(None)
