"""A batch: JSON Lines in, JSON Lines out. Each line is answered by one line, in the same order, also when it fails."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from vigc.serve.errors import ApiError, internal

TYPES = ("application/jsonl", "application/x-ndjson", "application/x-jsonlines")
AT_ONCE = 16  # lines of one batch
BUSY_S = 0.5  # until a line that found the queue full tries again
log = logging.getLogger("ray.serve")

Answer = Callable[[bytes], Awaitable[dict[str, Any]]]


async def answer_lines(lines: list[bytes], answer: Answer) -> AsyncGenerator[str, None]:
    """The answers, of which AT_ONCE are made at once. Leaving the iterator early cancels them."""
    under_way: deque[asyncio.Task[dict[str, Any]]] = deque()
    waiting = deque(enumerate(lines, 1))
    try:
        while waiting or under_way:
            while waiting and len(under_way) < AT_ONCE:
                number, line = waiting.popleft()
                under_way.append(asyncio.create_task(_answered(answer, number, line)))
            yield json.dumps(await under_way[0], ensure_ascii=False) + "\n"
            under_way.popleft()
    finally:
        for task in under_way:
            task.cancel()


async def _answered(answer: Answer, number: int, line: bytes) -> dict[str, Any]:
    try:
        return await answer(line)
    except ApiError as error:
        return {"line": number, **error.content}
    except Exception as error:
        log.exception("A fault in a line of a batch: %s", error)
        return {"line": number, **internal().content}


async def retry_while_full(answer: Callable[[], Awaitable[dict[str, Any]]], timeout_s: float) -> dict[str, Any]:
    """The answer, tried again while the queue is full: the sender of a batch waits for all of it anyway."""
    give_up = time.monotonic() + timeout_s
    while True:
        try:
            return await answer()
        except ApiError as error:
            if error.body.code != "overloaded" or time.monotonic() > give_up:
                raise
        await asyncio.sleep(BUSY_S)
