"""Retries what a network or a busy server refused for the moment, and nothing else.

Waits double up to MAX_WAIT_S, half of each at random, so that a thousand workers do not come back in step. For how
long in all, VIGC_STORAGE_PATIENCE_S says: long enough by default for a server that is started anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from tenacity import Retrying, retry_if_exception, stop_before_delay, wait_exponential, wait_random_exponential

from vigc.platform.records import ConfigError

T = TypeVar("T")

PATIENCE_S = 180.0
FIRST_WAIT_S, MAX_WAIT_S = 0.2, 10.0


def patience_s() -> float:
    text = os.environ.get("VIGC_STORAGE_PATIENCE_S", str(PATIENCE_S))
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(f"VIGC_STORAGE_PATIENCE_S is {text!r}, but must be a number of seconds.") from error


def retry(attempt: Callable[[], T], may_pass: Callable[[BaseException], bool], *, for_s: float) -> T:
    """What `attempt` returns, tried again for `for_s` while `may_pass` says that its exception may not come again."""
    half, rest = FIRST_WAIT_S / 2, MAX_WAIT_S / 2
    retrying = Retrying(
        retry=retry_if_exception(may_pass),
        wait=wait_exponential(multiplier=half, max=rest) + wait_random_exponential(multiplier=half, max=rest),
        stop=stop_before_delay(for_s),
        reraise=True,
    )
    return retrying(attempt)
