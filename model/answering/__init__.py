"""A model that is asked questions about images, whatever it is: the few verbs that an evaluation needs of it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol


class Answerer(Protocol):
    """Any number of coroutines may ask at once; what waits is answered in batches."""

    @property
    def can_rank(self) -> bool: ...

    def image(self, data: bytes) -> AbstractAsyncContextManager[Any]:
        """Holds an image open: pixels at the model's own size, or a whole file, as the model takes them."""
        ...

    async def answer(self, image: Any, question: str, style: str) -> tuple[str, str]:
        """The reply and the prompt. `style` is one of records.AnswerStyle."""
        ...

    async def rank(self, image: Any, question: str, candidates: list[str]) -> tuple[list[float], str]:
        """Log-probabilities of the candidates, each with its end mark, in nats; and the prompt."""
        ...

    def close(self) -> None: ...


def fill(template: str | None, question: str, default: str) -> str:
    """A prompt; templates hold {question}."""
    return (template or default).replace("{question}", question)
