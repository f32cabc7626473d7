"""What every engine can be asked. Callers are coroutines of any event loop (Ray Data's, Serve's, a test's), and one
that is cancelled frees what it held.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, Final

from vigc.model.completion import Completion, Request, ScoredToken
from vigc.platform.records import ConfigError, ImageForm, ModelError, TokenUsage


class EngineLost(ModelError):
    """What the engine needs is gone for good, such as a process of its own; it answers nothing any more."""


class Blank:
    """The image without an image: every pixel has the mean colour."""

    order = -1


BLANK: Final = Blank()


class Engine(ABC):
    """Answers requests about images. Close it when done; it is an async-safe object that any number of coroutines may
    use at once.
    """

    image_form: ImageForm  # what it wants of an image

    def __init__(self, *, num_slots: int) -> None:
        self.num_slots = num_slots
        self._num_under_way = 0

    @property
    @abstractmethod
    def is_alive(self) -> bool:
        """Whether it can answer."""

    @property
    def num_under_way(self) -> int:
        """Continuations that it was asked for and has not given yet."""
        return self._num_under_way

    @property
    def num_in_use(self) -> int:
        """Slots in which something is being decoded now."""
        return min(self.num_under_way, self.num_slots)

    @property
    def num_waiting(self) -> int:
        """Continuations that wait for a slot now."""
        return max(0, self.num_under_way - self.num_in_use)

    @abstractmethod
    def image(self, data: Any) -> AbstractAsyncContextManager[Any]:
        """Holds an image open. Waits while the engine already holds 2 x num_slots images.

        Args:
            data: bytes in the engine's `image_form`.
        Raises:
            ValueError: an image of another form.
        """

    async def complete(self, image: Any, request: Request) -> Completion:
        """One continuation (the first of `request.n`)."""
        return (await self.candidates(image, replace(request, n=1)))[0]

    @abstractmethod
    async def candidates(self, image: Any, request: Request) -> list[Completion]:
        """`request.n` continuations; each has a seed of its own, so they differ when sampling."""

    @abstractmethod
    async def score(self, image: Any, prompt: str, text: str, *, qformer_text: str | None = None) -> list[ScoredToken]:
        """How likely each token of `text` is behind `prompt`, which the text joins without a seam; the Q-Former reads
        the prompt unless told otherwise.
        """

    def num_prompt_tokens(self, prompt: str) -> int | None:
        """What a prompt about an image costs; None: only the server that reads it knows."""
        return None

    def usage(self, image: Any) -> TokenUsage | None:
        """What a server has counted so far for an image that is open; None: no server counts."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Ends what it has running; what still waits fails."""

    def check(self, request: Request) -> None:
        """Raises ConfigError for a request this engine cannot answer."""
        if request.n < 1 or request.max_tokens < 1:
            raise ConfigError("A request needs n and max_tokens of at least 1.")
