"""Answers OpenAI's chat completions, with OpenAI's own types.

The newest question of the user is answered about the newest image, sentence by sentence. The model has no memory of
earlier turns, so these are not read. Without a question VIG asks one.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any, Literal

from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessage
from openai.types.chat.chat_completion import Choice
from openai.types.chat.chat_completion_chunk import Choice as ChunkChoice
from openai.types.chat.chat_completion_chunk import ChoiceDelta

from vigc.model.conversation.policy import Policy
from vigc.platform.records import Conversation, CorrectionStep, ImageRecord, Stop, TokenUsage
from vigc.platform.schema import to_dict
from vigc.serve.conversations import ConversationService, GrowingAnswer
from vigc.serve.errors import ApiError
from vigc.serve.images import RequestImage
from vigc.serve.messages import Counted, KindEvent, ReplicaEvent, ReplicaTask, Started
from vigc.serve.schema.openai import ChatRequest, VigcCompletion

Events = AsyncGenerator[ReplicaEvent, None]


class ChatService:
    """Answers chat requests.

    Args:
        model: the name that requests must ask for.
    """

    def __init__(self, conversations: ConversationService, model: str) -> None:
        self._conversations, self._model = conversations, model

    def check(self, request: ChatRequest) -> Policy:
        """As ConversationService.check.

        Raises:
            ApiError: the service cannot answer this.
        """
        if request.model != self._model:
            message = f"The model {request.model!r} is not here; {self._model!r} is."
            raise ApiError(404, message, param="model", code="model_not_found")
        request.check_supported()
        return self._conversations.check(request, [request.kind], request.question())

    def events(self, request: ChatRequest, policy: Policy, image: RequestImage) -> Events:
        """What a replica answers about a decoded image."""
        return self._conversations.ask(
            ReplicaTask(
                image_id=image.decoded.sha256 or "",
                pixels=image.decoded.pixels or b"",
                policy=policy,
                kinds=(request.kind,),
                seed=request.seed or 0,
                question=request.question(),
                max_tokens=request.limit,
                wants_steps=bool(request.stream),
            )
        )

    async def completion(self, events: Events, request_id: str) -> dict[str, Any]:
        """The whole answer."""
        num_prompt_tokens = 0
        conversation: Conversation | None = None
        counted: TokenUsage | None = None
        async for message in events:
            if isinstance(message, Started):
                num_prompt_tokens = message.num_prompt_tokens or 0
            elif isinstance(message, Counted):
                counted = message.usage
            elif isinstance(message, KindEvent) and isinstance(message.event, Conversation):
                conversation = _answered(message.event)
        if conversation is None:
            raise ValueError("a conversation that never ended")
        completion = VigcCompletion(
            id=_id(request_id),
            object="chat.completion",
            created=int(time.time()),
            model=self._model,
            choices=[
                Choice(
                    index=0,
                    finish_reason=_finish_reason(conversation),
                    message=ChatCompletionMessage(role="assistant", content=_content(conversation)),
                )
            ],
            usage=_usage(counted or TokenUsage(num_prompt_tokens, conversation.num_tokens)),
            vigc=self._named(conversation),
        )
        return completion.model_dump(mode="json", exclude_unset=True)

    async def chunks(
        self, events: Events, request: ChatRequest, request_id: str
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The answer sentence by sentence."""
        wants_usage = request.stream_options is not None and request.stream_options.include_usage
        answer, created, usage = GrowingAnswer(), int(time.time()), TokenUsage()

        def chunk(*choices: ChunkChoice, **more: Any) -> dict[str, Any]:
            made = ChatCompletionChunk(
                id=_id(request_id),
                object="chat.completion.chunk",
                created=created,
                model=self._model,
                choices=list(choices),
                **more,
            )
            return made.model_dump(mode="json", exclude_unset=True)

        def delta(finish_reason: Literal["stop", "length"] | None = None, **fields: Any) -> ChunkChoice:
            return ChunkChoice(index=0, delta=ChoiceDelta(**fields), finish_reason=finish_reason)

        async for message in events:
            if isinstance(message, Started):
                usage = TokenUsage(message.num_prompt_tokens or 0)
                yield chunk(delta(role="assistant", content=""))
            elif isinstance(message, Counted):
                usage = message.usage
            elif isinstance(message, KindEvent) and isinstance(message.event, CorrectionStep):
                if new := answer.add(message.event):
                    yield chunk(delta(content=new))
            elif isinstance(message, KindEvent) and isinstance(message.event, Conversation):
                conversation = _answered(message.event)
                usage = replace(usage, num_completion=conversation.num_tokens)
                if rest := _content(conversation)[len(answer.text) :]:
                    yield chunk(delta(content=rest))
                yield {**chunk(delta(_finish_reason(conversation))), "vigc": self._named(conversation)}
        if wants_usage:
            yield chunk(usage=_usage(usage))

    def _named(self, conversation: Conversation) -> dict[str, Any]:
        """With the objects that it names, in an image of which nothing else is known."""
        named: dict[str, Any] = to_dict(self._conversations.named(conversation, ImageRecord("", "")))
        return named


def _id(request_id: str) -> str:
    return f"chatcmpl-{request_id}"


def _content(conversation: Conversation) -> str:
    """The answer. Where a limit of tokens cut a sentence, which no row keeps, its beginning is there, too."""
    is_cut = _finish_reason(conversation) == "length" and not conversation.steps[-1].kept
    return (conversation.answer + conversation.steps[-1].text).strip() if is_cut else conversation.answer


def _finish_reason(conversation: Conversation) -> Literal["stop", "length"]:
    return "length" if conversation.steps and conversation.steps[-1].stop is Stop.LENGTH else "stop"


def _answered(conversation: Conversation) -> Conversation:
    """Raises ApiError: the model's server did not answer about this image."""
    if (error := conversation.error) is not None:
        status = 502 if error.kind == "malformed" else 400
        raise ApiError(status, f"The model's server does not answer this: {error.message}", code=error.kind)
    return conversation


def _usage(usage: TokenUsage) -> CompletionUsage:
    return CompletionUsage(
        prompt_tokens=usage.num_prompt,
        completion_tokens=usage.num_completion,
        total_tokens=usage.num_prompt + usage.num_completion,
    )
