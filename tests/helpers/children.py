"""Handlers for child processes: they do what a test asks of them, dying included."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from vigc.platform.records import ModelError


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("cannot travel")
        self.reason = lambda: None


def act(payload: Any) -> Any:
    what, *rest = payload
    match what:
        case "echo":
            return rest[0]
        case "pid":
            return os.getpid()
        case "session":
            return os.getsid(0), signal.getsignal(signal.SIGINT) == signal.SIG_IGN, sys.stdin.read()
        case "modules":
            return sorted(sys.modules)
        case "print":
            print("printed in the child")
            return None
        case "crash":
            ctypes.string_at(0)
        case "exit":
            os._exit(rest[0])
        case "spin":
            while True:
                pass
        case "allocate":
            return len(bytearray(rest[0]))
        case "raise":
            raise {"value": ValueError("wrong"), "model": ModelError("no weights"), "odd": Unpicklable()}[rest[0]]


def make_act() -> Callable[[Any], Any]:
    return act


def make_nothing(error: Exception) -> Callable[[Any], Any]:
    raise error


class Loop:
    """Answers when its turn comes; "meet" waits until so many are waiting."""

    def __init__(self) -> None:
        self.waiting, self.cancelled = 0, 0
        self.all_here = asyncio.Event()

    async def __call__(self, payload: Any) -> Any:
        what, *rest = payload
        if what == "meet":
            self.waiting += 1
            if self.waiting == rest[0]:
                self.all_here.set()
            await self.all_here.wait()
            return rest[1]
        if what == "sleep":
            try:
                await asyncio.sleep(rest[0])
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if what == "cancelled":
            return self.cancelled
        return act(payload)


def orphaned(folder: str) -> None:
    """A parent that is killed while its child spins; run in a process of its own."""
    from pathlib import Path

    from vigc.platform.images.isolation import Child

    child = Child(make_act)
    Path(folder, "child").write_text(str(child.call(("pid",))))
    child.submit(("spin",))
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)
