"""Trying again what a network or a busy server refused for the moment, and what cannot be mended by waiting at once.

Waits grow at random up to MAX_WAIT_S, so that a thousand workers do not come back in step. For how long in all,
VIGC_STORAGE_PATIENCE_S says: long enough by default for a server that is started anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

T = TypeVar("T")

PATIENCE_S = 180.0
MAX_WAIT_S = 10.0


def patience_s() -> float:
    return float(os.environ.get("VIGC_STORAGE_PATIENCE_S", PATIENCE_S))


def patiently(attempt: Callable[[], T], may_pass: Callable[[BaseException], bool], *, for_s: float | None = None) -> T:
    """What `attempt` returns, tried again while `may_pass` says of its exception that it may be gone next time."""
    retrying = Retrying(
        retry=retry_if_exception(may_pass),
        wait=wait_random_exponential(multiplier=0.2, max=MAX_WAIT_S),
        stop=stop_after_delay(patience_s() if for_s is None else for_s),
        reraise=True,
    )
    return retrying(attempt)
