"""OpenAI's chat completions, as far as this service can answer them.

Fields of ours stand beside OpenAI's: `kind` and those of DecodingOptions in the request, and `vigc`, the whole
conversation, in the answer. Other fields of OpenAI's are accepted and ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from openai.types import Model
from openai.types.chat import ChatCompletion
from pydantic import BaseModel, ConfigDict, Field

from vigc.platform.records import Kind
from vigc.serve.errors import wrong
from vigc.serve.schema.vigc import MAX_TOKENS, DecodingOptions

MAX_MESSAGES, MAX_PARTS = 256, 64


class ImageUrl(BaseModel):
    """A data URI or an address."""

    url: str
    detail: Annotated[str | None, Field(description="Ignored: the model has one image size.")] = None


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
    """What a stream contains beside the answer."""

    include_usage: bool = False


class ChatRequest(DecodingOptions):
    """The newest question of the user about the newest image."""

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

    def check_supported(self) -> None:
        """
        Raises:
            ApiError: it asks for something that cannot be had; to ignore it would give a wrong answer.
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
        """The newest text of the user; None where the newest message is an image alone, so that VIG asks."""
        for message in reversed(self.messages):
            if message.role != "user" or message.content is None:
                continue
            parts = [message.content] if isinstance(message.content, str) else _texts(message.content)
            return "\n".join(part.strip() for part in parts if part.strip()) or None
        return None

    def image(self) -> str:
        """The address of the newest image.

        Raises:
            ApiError: there is none.
        """
        for message in reversed(self.messages):
            if message.role == "user" and isinstance(message.content, list):
                urls = [part.image_url.url for part in message.content if isinstance(part, ImagePart)]
                if len(urls) > 1:
                    raise wrong("A message may hold one image.", "messages", "too_many_images")
                if urls:
                    return urls[0]
        raise wrong(
            "No message of the user's holds an image. Add a part {type: image_url, image_url: {url: …}}.",
            "messages",
            "missing_image",
        )

    @property
    def limit(self) -> int | None:
        """Tokens of the answer at most."""
        asked = [value for value in (self.max_tokens, self.max_completion_tokens) if value is not None]
        return min(*asked, MAX_TOKENS) if asked else None


class VigcCompletion(ChatCompletion):
    """OpenAI's answer, and the whole conversation."""

    vigc: dict[str, Any]


class VigcModel(Model):
    """OpenAI's entry of a model, and what it can be asked."""

    vigc: dict[str, Any]


class VigcModels(BaseModel):
    """OpenAI's list of models."""

    object: Literal["list"]
    data: list[VigcModel]


def _texts(parts: list[TextPart | ImagePart]) -> list[str]:
    return [part.text for part in parts if isinstance(part, TextPart)]
