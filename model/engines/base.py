"""Engines that have a network in this process: most step it in a thread of their own, and answer callers of any event
loop through `call_soon_threadsafe`.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from vigc.model.completion import Completion, Request, ScoredToken
from vigc.model.cores import num_cores
from vigc.model.engines.interface import BLANK, Blank, Engine
from vigc.model.engines.scoring import ScoreRequest
from vigc.model.network import Network
from vigc.platform.records import ConfigError, ImageForm, ModelError


class ImageHandle:
    """An image that an engine knows; its vision features are held while the handle is open."""

    _numbers = itertools.count()

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels
        self.order = next(self._numbers)  # who came first is served first
        self.memory: Tensor | None = None  # what the engine keeps of it


Work = TypeVar("Work")


@dataclass(eq=False)
class EngineJob(Generic[Work]):
    """One piece of work for the engine's thread, and where its answer goes."""

    image: ImageHandle | Blank
    work: Work  # a Request, ScoreRequest or Encode, or what `prepared` made of it
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    cancelled: threading.Event = field(default_factory=threading.Event)

    def answer(self, result: Any) -> None:
        self._settle(lambda: self.future.set_result(result))

    def fail(self, error: BaseException) -> None:
        self._settle(lambda: self.future.set_exception(error))

    def _settle(self, settle: Callable[[], None]) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(lambda: None if self.future.done() else settle())


@dataclass(frozen=True)
class Encode:
    """Work: vision features of an image."""


# Wakes the engine's thread: something was cancelled or closed.
WAKE_UP: Final = EngineJob[None](BLANK, None, None, None)  # type: ignore[arg-type]


class NetworkEngine(Engine):
    """An engine with a network in this process."""

    def __init__(self, network: Network, *, num_slots: int) -> None:
        super().__init__(num_slots=num_slots)
        self.network = network
        self.image_size = network.image_size
        self.image_form = ImageForm(side=network.image_size)

    @asynccontextmanager
    async def image(self, data: bytes | np.ndarray) -> AsyncIterator[ImageHandle]:
        """
        Args:
            data: uint8 (image_size, image_size, 3), or its bytes, row by row.
        """
        size = self.image_size
        pixels = np.frombuffer(data, np.uint8).reshape(size, size, 3) if isinstance(data, bytes) else data
        if pixels.dtype != np.uint8 or pixels.shape != (self.image_size, self.image_size, 3):
            raise ValueError(
                f"The engine wants uint8 pixels of {self.image_size} x {self.image_size} x 3, not "
                f"{pixels.dtype} {pixels.shape}."
            )
        handle = ImageHandle(pixels)
        try:
            await self.submit(handle, Encode())
            yield handle
        finally:
            self.release(handle)

    async def candidates(self, image: ImageHandle | Blank, request: Request) -> list[Completion]:
        self.check(request)
        completions: list[Completion] = await self.submit(image, request)
        return completions

    async def score(
        self, image: ImageHandle | Blank, prompt: str, text: str, *, qformer_text: str | None = None
    ) -> list[ScoredToken]:
        result: list[ScoredToken] = await self.submit(
            image, ScoreRequest(prompt if qformer_text is None else qformer_text, prompt, text)
        )
        return result

    def num_prompt_tokens(self, prompt: str) -> int | None:
        return self.network.num_queries + len(self.network.prompt_ids(prompt))

    @abstractmethod
    async def submit(self, image: ImageHandle | Blank, work: Any) -> Any:
        """Has a piece of work done for an image; see `EngineJob`."""

    def release(self, handle: ImageHandle) -> None:
        handle.memory = None


class ThreadedEngine(NetworkEngine):
    """An engine that steps in a thread of its own."""

    def __init__(self, network: Network, *, num_slots: int, num_threads: int | None = None) -> None:
        super().__init__(network, num_slots=num_slots)
        self._num_threads = num_threads or num_cores()
        self._inbox: queue.SimpleQueue[EngineJob[Any] | None] = queue.SimpleQueue()  # None ends the thread
        self._closed = False
        self._thread = threading.Thread(target=self._guard, name=type(self).__name__, daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._inbox.put(None)
            self._thread.join(timeout=60)

    async def submit(self, image: ImageHandle | Blank, work: Any) -> Any:
        ready = self.prepared(work)
        await asyncio.sleep(0)  # what is asked for together is all ready before the first of it is handed over
        if self._closed:
            raise ModelError("The engine is closed.")
        loop = asyncio.get_running_loop()
        job = EngineJob(image, ready, loop, loop.create_future())
        number = work.n if isinstance(work, Request) else 0
        self._num_under_way += number
        self._inbox.put(job)
        try:
            return await job.future
        except asyncio.CancelledError:
            job.cancelled.set()
            self._inbox.put(WAKE_UP)
            raise
        finally:
            self._num_under_way -= number

    def prepared(self, work: Any) -> Any:
        """Work as the engine's thread wants it: what the caller's thread can do of it, so that no step waits."""
        return work

    def _guard(self) -> None:
        torch.set_num_threads(self._num_threads)  # Ray gives a worker's torch one thread
        with torch.inference_mode():
            self._run()

    @abstractmethod
    def _run(self) -> None:
        """Works on `_inbox` until a None comes out of it."""


class BatchingEngine(ThreadedEngine):
    """A threaded engine that works on many jobs at once: each waits in a queue of its kind."""

    def _read_inbox(self, *, block: bool) -> bool:
        """Sorts what has come into the queues; False when the engine is to end.

        Args:
            block: wait until something comes.
        """
        is_woken = False
        while True:
            try:
                job = self._inbox.get(block=block)
            except queue.Empty:
                break
            if job is None:
                return False
            block = False
            if job is WAKE_UP:
                is_woken = True
            else:
                self._enqueue(job)
        if is_woken:
            self._drop_cancelled()
        return True

    def _attempt(self, jobs: Sequence[EngineJob[Any]], work: Callable[[], object]) -> None:
        """Runs work for these jobs. If it fails they get the error, and the engine goes on."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 - raised again in every caller concerned
            self._drop(set(jobs))
            is_ours = isinstance(error, ConfigError | ModelError)
            for job in jobs:
                job.fail(error if is_ours else ModelError(f"The engine failed: {type(error).__name__}: {error}"))

    @abstractmethod
    def _enqueue(self, job: EngineJob[Any]) -> None:
        """Puts a job into the queue of its kind."""

    @abstractmethod
    def _drop(self, jobs: set[EngineJob[Any]]) -> None:
        """Stops all work for these jobs and forgets them."""

    @abstractmethod
    def _drop_cancelled(self) -> None:
        """Does so for the jobs whose callers were cancelled."""


def pixels_of(network: Network, image: ImageHandle | Blank) -> Tensor:
    """(size, size, 3), uint8."""
    if isinstance(image, Blank):
        mean = torch.tensor(network.image_mean) * 255
        return mean.round().to(torch.uint8).expand(network.image_size, network.image_size, 3)
    return torch.from_numpy(np.array(image.pixels))
