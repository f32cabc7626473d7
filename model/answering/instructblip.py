"""InstructBLIP and VIGC models as answerers: short answers by the pack's short prompt, free ones sentence by sentence.

A short answer is one continuation of `PromptPack.short_answer`. A free one is VIC's: instruction, question and the
answer so far go through the Q-Former again before each sentence, which is what such a model was tuned for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from vigc.model.answering import fill
from vigc.model.completion import Completion, Request
from vigc.model.conversation.policy import Policy
from vigc.model.conversation.vigc import answer_question
from vigc.model.engines.base import ImageHandle, NetworkEngine
from vigc.model.prompts import PromptPack
from vigc.platform.records import AnswerStyle, Kind

_KINDS = {
    AnswerStyle.CONVERSATION: Kind.CONVERSATION,
    AnswerStyle.DETAIL: Kind.DETAIL,
    AnswerStyle.REASONING: Kind.REASONING,
}


@dataclass(frozen=True, slots=True)
class InstructBlipAnswerer:
    engine: NetworkEngine
    pack: PromptPack
    policy: Policy
    template: str | None = None  # of all prompts; None: the pack's
    max_tokens: int | None = None  # of an answer
    can_rank: bool = True

    @asynccontextmanager
    async def image(self, data: bytes) -> AsyncIterator[ImageHandle]:
        """`data` is uint8 RGB at the engine's image size, row by row."""
        size = self.engine.image_size
        async with self.engine.image(np.frombuffer(data, dtype=np.uint8).reshape(size, size, 3)) as handle:
            yield handle

    async def answer(self, image: ImageHandle, question: str, style: str) -> tuple[str, str]:
        kind = _KINDS.get(AnswerStyle(style))
        if kind is not None and self.template is None:
            return await self._freely(image, question, kind)
        prompt = fill(self.template, question, self.pack.short_answer)
        limit = self.policy.max_tokens if kind is not None else self.policy.max_tokens_short
        completion = await self.engine.complete(
            image, Request(qformer_text=prompt, prompt=prompt, max_tokens=self.max_tokens or limit)
        )
        return completion.text.strip(), prompt

    async def rank(self, image: ImageHandle, question: str, candidates: list[str]) -> tuple[list[float], str]:
        prompt = fill(self.template, question, self.pack.short_answer)
        end = str(self.engine.network.tokenizer.eos_token)
        scores = await asyncio.gather(*(self.engine.score(image, prompt, f" {one}{end}") for one in candidates))
        return [sum(token.logprob for token in tokens) for tokens in scores], prompt

    def close(self) -> None:
        self.engine.close()

    async def _freely(self, image: ImageHandle, question: str, kind: Kind) -> tuple[str, str]:
        async def complete(request: Request) -> Completion:
            return await self.engine.complete(image, request)

        policy = self.policy if self.max_tokens is None else replace(self.policy, max_tokens=self.max_tokens)
        spoken = await answer_question(
            complete, self.pack, question, policy, kind=kind, candidates=partial(self.engine.candidates, image)
        )
        return spoken.answer, self.pack.vic_prompt(spoken.instruction, question)
