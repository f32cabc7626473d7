"""Who holds a lock: which process, on which machine, since when, and whether it still lives.

A process id alone does not tell: ids are used again, count anew in each container, and mean nothing on another
machine. So the place where the id counts (one boot of one machine, one namespace of it) and the moment the process
began go with it.
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

GONE_STATES = "ZX"  # a process that has ended, but whose parent has not asked how


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that holds a lock."""

    host: str
    pid: int
    place: str  # where its id counts; "" where the system does not say
    began: str  # when it began, in the kernel's ticks
    since: float  # when it took the lock, in seconds since 1970, by its own clock

    @classmethod
    def this_process(cls) -> Owner:
        _, began = _life(os.getpid())
        return cls(socket.gethostname(), os.getpid(), _place(), began, time.time())

    @classmethod
    def parsed(cls, text: str | bytes) -> Owner | None:
        """The owner that a lock file names; None where it names none."""
        try:
            there = json.loads(text)
            return cls(*(kind(there[name]) for name, kind in _FIELDS.items()))
        except (ValueError, TypeError, KeyError):
            return None

    def json(self, **more: object) -> bytes:
        return json.dumps({**asdict(self), **more}, indent=2).encode()

    def is_here(self) -> bool:
        """Whether it runs, or ran, where this process can see it."""
        return bool(self.place) and self.place == _place()

    def is_gone(self) -> bool:
        """Whether it has ended for certain."""
        if not self.is_here():
            return False
        state, began = _life(self.pid)
        return state in GONE_STATES or began != self.began

    def described(self, age_s: float) -> str:
        return f"process {self.pid} on {self.host} since {_duration(age_s)}"


_FIELDS = {"host": str, "pid": int, "place": str, "began": str, "since": float}


def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux: nothing can be said about another process
        return ""


def _life(pid: int) -> tuple[str, str]:
    """A process's state and when it began; it counts as ended when there is none."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "X", ""
    fields = status.rpartition(")")[2].split()  # after its name, which may hold anything
    return fields[0], fields[19]


def _duration(seconds: float) -> str:
    for unit, length_s in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
