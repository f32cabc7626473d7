"""The actor of an evaluation: a model of any kind, asked all questions about an image at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vigc.jobs.evaluate.endpoint import Declined, Endpoint
from vigc.jobs.row_worker import ImageResult, RowWorker
from vigc.model.conversation.policy import Policy
from vigc.model.engines.settings import EndpointSettings, EngineSettings
from vigc.model.prompts import PromptPack
from vigc.platform.evaluation.items import Item, Reply
from vigc.platform.records import AnswerStyle
from vigc.platform.storage import Folder

if TYPE_CHECKING:
    from vigc.model.answering import Answerer

SHORT_TOKENS, LONG_TOKENS = 512, 1024  # of an endpoint's answer, where nobody says
_ENDPOINT_TEMPLATES = {
    AnswerStyle.SHORT: "{question}\nAnswer with one word or a short phrase.",
    AnswerStyle.YES_NO: "{question}\nAnswer yes or no.",
    AnswerStyle.LETTER: "{question}\nAnswer with the letter of the right option only.",
}


@dataclass(frozen=True, slots=True)
class EvaluateSettings:
    """All that a worker needs to know."""

    folder: Folder  # of the evaluation
    engine: EngineSettings  # `continuous`; or `transformers` or `endpoint`, which answer without being engines
    pack: PromptPack
    policy: Policy
    template: str | None
    max_tokens: int | None  # of an answer; given where there is an endpoint
    endpoint: EndpointSettings | None


class EvaluateWorker(RowWorker):
    """See the module."""

    def __init__(self, settings: EvaluateSettings) -> None:
        from vigc.platform.evaluation.folder import by_image, read_items

        super().__init__("001")
        self._items = by_image(read_items(settings.folder))
        self._answerer = start_answerer(settings)

    async def result(self, values: dict[str, Any]) -> ImageResult:
        from vigc.platform.evaluation.folder import as_conversation

        items = self._items[values["image_id"]]
        async with self._answerer.image(values["pixels"]) as image:
            replies = await asyncio.gather(*(self._reply(image, item) for item in items))
        return ImageResult([as_conversation(item, reply) for item, reply in zip(items, replies, strict=True)])

    async def _reply(self, image: Any, item: Item) -> Reply:
        if item.style is AnswerStyle.RANK and not self._answerer.can_rank:
            return Reply()
        try:
            if item.style is AnswerStyle.RANK:
                logprobs, prompt = await self._answerer.rank(image, item.question, item.candidates)
                return Reply(prompt=prompt, logprobs=logprobs)
            text, prompt = await self._answerer.answer(image, item.question, item.style)
            return Reply(text, prompt)
        except Declined as declined:
            return Reply(error=str(declined))


class EndpointAnswerer:
    """An endpoint as an answerer. It gives no probabilities of texts."""

    can_rank = False

    def __init__(self, endpoint: Endpoint, template: str | None) -> None:
        self._endpoint, self._template = endpoint, template

    @asynccontextmanager
    async def image(self, image: bytes) -> AsyncIterator[bytes]:
        yield image

    async def answer(self, image: bytes, question: str, style: str) -> tuple[str, str]:
        from vigc.model.answering import fill

        prompt = fill(self._template, question, _ENDPOINT_TEMPLATES.get(AnswerStyle(style), "{question}"))
        return (await self._endpoint.ask(prompt, image)).strip(), prompt

    async def rank(self, image: bytes, question: str, candidates: list[str]) -> tuple[list[float], str]:
        raise NotImplementedError("an endpoint gives no probabilities of texts")

    def close(self) -> None:
        pass


def start_answerer(settings: EvaluateSettings) -> Answerer:
    """
    Raises:
        ConfigError, ModelError: the model cannot be used.
    """
    if settings.endpoint is not None:
        endpoint = Endpoint(settings.endpoint, max_tokens=settings.max_tokens or SHORT_TOKENS)
        return EndpointAnswerer(endpoint, settings.template)
    if settings.engine.engine == "transformers":
        from vigc.model.answering.image_text import ImageTextAnswerer

        return ImageTextAnswerer(settings.engine, template=settings.template, max_tokens=settings.max_tokens)
    from vigc.model.answering.instructblip import InstructBlipAnswerer
    from vigc.model.engines.start import start_network_engine

    engine = start_network_engine(settings.engine)
    return InstructBlipAnswerer(engine, settings.pack, settings.policy, settings.template, settings.max_tokens)
