"""The cores of this machine that are ours."""

from __future__ import annotations

import os


def num_cores() -> int:
    """Cores this process may use; a container or taskset can make them fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
