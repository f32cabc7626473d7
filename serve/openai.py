"""OpenAI's chat completions, spoken with OpenAI's own types.

The newest question of the user is answered about the newest picture, sentence by sentence; the model has no memory of
earlier turns, so these are not read. Without a question VIG asks one. Fields of ours stand beside OpenAI's: `kind` and
`policy` in the request, and `vigc`, the whole conversation, in the answer.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal

from openai.types import CompletionUsage, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage
from openai.types.chat.chat_completion import Choice
from openai.types.chat.chat_completion_chunk import Choice as ChunkChoice
from openai.types.chat.chat_completion_chunk import ChoiceDelta
from pydantic import BaseModel, ConfigDict, Field

from vigc.model.conversation.policy import Policy
from vigc.platform.records import Conversation, CorrectionStep, Kind, Stop
from vigc.platform.schema import to_dict
from vigc.serve.errors import ApiError, wrong
from vigc.serve.images import RequestImage
from vigc.serve.messages import Ask, KindEvent, ReplicaTask, Started
from vigc.serve.rows import MAX_TOKENS, DecodingOptions, GrowingAnswer, RowService, check_kind, check_question

MAX_MESSAGES, MAX_PARTS = 256, 64


class ImageUrl(BaseModel):
    """A data URI or an address; `detail` is taken and changes nothing."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class TextPart(BaseModel):
    """A part of a message."""

    type: Literal["text"]
    text: str


class ImagePart(BaseModel):
    """A part of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ChatMessage(BaseModel):
    """One of the messages; only the user's are read."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[list[Part], Field(min_length=1, max_length=MAX_PARTS)] | str | None = None


class StreamOptions(BaseModel):
    """Of a stream."""

    include_usage: bool = False


class ChatRequest(DecodingOptions):
    """OpenAI's request, as far as it can be answered; other fields of OpenAI's are taken and change nothing."""

    model_config = ConfigDict(extra="ignore")

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    n: Annotated[int | None, Field(ge=1)] = 1
    logprobs: bool | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    response_format: dict[str, Any] | None = None
    stop: str | list[str] | None = None
    kind: Annotated[Kind, Field(description="What the answer is like.")] = Kind.CONVERSATION

    def check(self) -> None:
        """
        Raises:
            ApiError: it asks for what cannot be had; silence would be a wrong answer.
        """
        unsupported = {
            "n": (self.n or 1) > 1,
            "logprobs": bool(self.logprobs),
            "tools": bool(self.tools),
            "functions": bool(self.functions),
            "response_format": (self.response_format or {}).get("type", "text") != "text",
            "stop": bool(self.stop),
        }
        for name, is_asked in unsupported.items():
            if is_asked:
                raise wrong(f"{name} is not supported here.", name, "unsupported_parameter")

    def question(self) -> str | None:
        """The newest text of the user's."""
        for message in reversed(self.messages):
            if message.role != "user" or message.content is None:
                continue
            parts = [message.content] if isinstance(message.content, str) else _texts(message.content)
            if text := "\n".join(part.strip() for part in parts if part.strip()):
                return text
            return None  # a picture alone: VIG asks
        return None

    def image(self) -> str:
        """The address of the newest picture.

        Raises:
            ApiError: there is none.
        """
        for message in reversed(self.messages):
            if message.role == "user" and isinstance(message.content, list):
                urls = [part.image_url.url for part in message.content if isinstance(part, ImagePart)]
                if len(urls) > 1:
                    raise wrong("A message may hold one picture.", "messages", "too_many_images")
                if urls:
                    return urls[0]
        raise wrong(
            "No message of the user's holds a picture. Add a part {type: image_url, image_url: {url: …}}.",
            "messages",
            "missing_image",
        )

    @property
    def limit(self) -> int | None:
        asked = [value for value in (self.max_tokens, self.max_completion_tokens) if value is not None]
        return min(*asked, MAX_TOKENS) if asked else None


class ChatService:
    """Answers chat requests."""

    def __init__(self, rows: RowService, model: str, ask: Ask) -> None:
        self._rows, self._model, self._ask = rows, model, ask

    def check(self, request: ChatRequest) -> Policy:
        """What can be known to be wrong before there is a picture.

        Raises:
            ApiError
        """
        if request.model != self._model:
            raise ApiError(
                404,
                f"The model {request.model!r} is not here; {self._model!r} is.",
                param="model",
                code="model_not_found",
            )
        request.check()
        check_kind(self._rows.pack, request.kind)
        if (question := request.question()) is not None:
            check_question(question, self._rows.settings)
        return request.chosen_policy(self._rows.settings)

    def said(self, request: ChatRequest, picture: RequestImage) -> AsyncGenerator[Started | KindEvent, None]:
        """What is said about a decoded picture."""
        return self._ask(
            ReplicaTask(
                image_id=picture.decoded.sha256 or "",
                pixels=picture.decoded.pixels or b"",
                policy=self.check(request),
                kinds=(request.kind,),
                seed=request.seed or 0,
                question=request.question(),
                max_tokens=request.limit,
                wants_steps=bool(request.stream),
            )
        )

    async def completion(self, said: AsyncGenerator[Started | KindEvent, None], request_id: str) -> dict[str, Any]:
        """The answer as a whole."""
        num_prompt_tokens = 0
        spoken: Conversation | None = None
        async for event in said:
            if isinstance(event, Started):
                num_prompt_tokens = event.num_prompt_tokens or 0
            elif isinstance(event.news, Conversation):
                spoken = event.news
        if spoken is None:
            raise ValueError("a conversation that never ended")
        completion = ChatCompletion(
            id=_id(request_id),
            object="chat.completion",
            created=int(time.time()),
            model=self._model,
            choices=[
                Choice(
                    index=0,
                    finish_reason=_finish_reason(spoken),
                    message=ChatCompletionMessage(role="assistant", content=spoken.answer),
                )
            ],
            usage=_usage(num_prompt_tokens, spoken),
        )
        return {**completion.model_dump(mode="json", exclude_unset=True), "vigc": self._conversation(spoken)}

    async def chunks(
        self, said: AsyncGenerator[Started | KindEvent, None], request: ChatRequest, request_id: str
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The answer sentence by sentence."""
        wants_usage = request.stream_options is not None and request.stream_options.include_usage
        answer, created, num_prompt_tokens = GrowingAnswer(), int(time.time()), 0

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

        def delta(finish_reason: Literal["stop", "length"] | None = None, **said: Any) -> ChunkChoice:
            return ChunkChoice(index=0, delta=ChoiceDelta(**said), finish_reason=finish_reason)

        async for event in said:
            if isinstance(event, Started):
                num_prompt_tokens = event.num_prompt_tokens or 0
                yield chunk(delta(role="assistant", content=""))
            elif isinstance(event.news, CorrectionStep):
                begun = answer.text
                answer.add(event.news)
                if new := answer.text[len(begun) :]:
                    yield chunk(delta(content=new))
            elif isinstance(event.news, Conversation):
                yield {**chunk(delta(_finish_reason(event.news))), "vigc": self._conversation(event.news)}
                if wants_usage:
                    yield chunk(usage=_usage(num_prompt_tokens, event.news))

    def _conversation(self, spoken: Conversation) -> dict[str, Any]:
        found: dict[str, Any] = to_dict(self._rows.named(spoken))
        return found


def model_of(name: str, created: int, about: dict[str, Any]) -> dict[str, Any]:
    """An entry of /v1/models."""
    return {**Model(id=name, created=created, object="model", owned_by="vigc").model_dump(), "vigc": about}


def _texts(parts: list[TextPart | ImagePart]) -> list[str]:
    return [part.text for part in parts if isinstance(part, TextPart)]


def _id(request_id: str) -> str:
    return f"chatcmpl-{request_id}"


def _finish_reason(spoken: Conversation) -> Literal["stop", "length"]:
    return "length" if spoken.steps and spoken.steps[-1].stop is Stop.LENGTH else "stop"


def _usage(num_prompt_tokens: int, spoken: Conversation) -> CompletionUsage:
    return CompletionUsage(
        prompt_tokens=num_prompt_tokens,
        completion_tokens=spoken.num_tokens,
        total_tokens=num_prompt_tokens + spoken.num_tokens,
    )
