"""How long a test waits for what must come: longer than the busiest machine needs, so that only a hang is a failure."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

WAIT_S = 600.0
Found = TypeVar("Found")


def wait_until(
    condition: Callable[[], Found], *, process: subprocess.Popen[str] | None = None, pause_s: float = 0.02
) -> Found:
    """The first answer of `condition` that is true; the process that is to bring it about must live until then."""
    end = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert process is None or process.poll() is None, f"it ended too early: {process.communicate()}"
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(pause_s)
    return found
