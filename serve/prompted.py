"""Answers prompts: the model itself in OpenAI's chat completions, text in and text out, without VIG and VIC around it.

The user's text is the prompt, letter by letter; an assistant's message behind it is an answer that is begun. The model
rereads the image with every request. `vigc generate` makes the same rows through this as with an engine of its own.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Any

from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionMessage, ChatCompletionTokenLogprob
from openai.types.chat.chat_completion import Choice, ChoiceLogprobs
from openai.types.chat.chat_completion_token_logprob import TopLogprob

from vigc.model.completion import Completion, Request
from vigc.platform.records import Stop
from vigc.serve.conversations import ConversationService
from vigc.serve.images import RequestImage
from vigc.serve.messages import Completed, PromptTask, ReplicaEvent
from vigc.serve.schema.openai import ChatRequest, VigcCompletion

SUFFIX = "-itself"  # of the model's name
ANSWER_TOKENS = 250  # where nobody says


class PromptService:
    """Answers chat requests for the model itself."""

    def __init__(self, conversations: ConversationService) -> None:
        self._conversations = conversations
        self.model = f"{conversations.chosen.place.name}{SUFFIX}"
        presence = conversations.pack.presence
        self._words = (presence.yes, presence.no)

    @property
    def is_there(self) -> bool:
        """Not where the model is behind an endpoint itself, which whoever wants it can ask."""
        return self._conversations.chosen.endpoint is None

    def check(self, request: ChatRequest) -> Request:
        """What the engine is asked. Raises ApiError: the service cannot answer this."""
        prompt, prefix = request.prompt()
        more = request.vigc
        return Request(
            qformer_text=prompt + prefix if more.qformer_text is None else more.qformer_text,
            prompt=prompt,
            prefix=prefix,
            until=more.until,
            max_tokens=request.limit or ANSWER_TOKENS,
            temperature=request.temperature or 0.0,
            top_p=request.top_p or 1.0,
            seed=request.seed or 0,
            n=request.n or 1,
            suppress=tuple(more.suppress),
            stop_at=more.stop_at,
            min_tokens=more.min_tokens,
            repetition_penalty=more.repetition_penalty,
            length_penalty=more.length_penalty,
        )

    def events(self, asked: Request, image: RequestImage, *, logprobs: bool) -> AsyncGenerator[ReplicaEvent, None]:
        """What a replica answers about a decoded image."""
        words = self._words if logprobs else ()
        return self._conversations.ask(PromptTask(image.decoded.pixels or b"", asked, words))

    async def completion(self, events: AsyncGenerator[ReplicaEvent, None], request_id: str) -> dict[str, Any]:
        """The whole answer."""
        completed: Completed | None = None
        async for message in events:
            if isinstance(message, Completed):
                completed = message
        if completed is None:
            raise ValueError("a prompt that was never answered")
        num_written = sum(one.num_tokens for one in completed.completions)
        completion = VigcCompletion(
            id=f"chatcmpl-{request_id}",
            object="chat.completion",
            created=int(time.time()),
            model=self.model,
            choices=[self._choice(index, completed) for index in range(len(completed.completions))],
            usage=CompletionUsage(
                prompt_tokens=completed.num_prompt_tokens,
                completion_tokens=num_written,
                total_tokens=completed.num_prompt_tokens + num_written,
            ),
            vigc={"choices": [_told(one) for one in completed.completions]},
        )
        return completion.model_dump(mode="json", exclude_unset=True)

    def _choice(self, index: int, completed: Completed) -> Choice:
        one = completed.completions[index]
        logprobs = None
        if completed.scores:
            likely = [
                TopLogprob(token=word, logprob=value) for word, value in zip(self._words, completed.scores, strict=True)
            ]
            token = ChatCompletionTokenLogprob(token=one.text, logprob=one.mean_logprob or 0.0, top_logprobs=likely)
            logprobs = ChoiceLogprobs(content=[token])
        return Choice(
            index=index,
            finish_reason="length" if one.stop is Stop.LENGTH else "stop",
            message=ChatCompletionMessage(role="assistant", content=one.text),
            logprobs=logprobs,
        )


def _told(one: Completion) -> dict[str, Any]:
    return {"stop": one.stop, "num_tokens": one.num_tokens, "mean_logprob": one.mean_logprob}
