"""OpenAI's chat completions, as far as this service can answer them.

Fields of ours stand beside OpenAI's: `kind` and those of DecodingOptions in the request, and `vigc`, the whole
conversation, in the answer. Other fields of OpenAI's are accepted and ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from openai.types import Model
from openai.types.chat import ChatCompletion
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from vigc.model.sentences import Unit
from vigc.platform.records import Kind
from vigc.serve.errors import wrong
from vigc.serve.schema.vigc import MAX_TOKENS, DecodingOptions

MAX_MESSAGES, MAX_PARTS = 256, 64
MAX_CHOICES, MAX_PROMPT_CHARS = 16, 20_000  # of the model itself


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

    def text(self) -> str:
        """As it is, images left out."""
        return self.content if isinstance(self.content, str) else "".join(_texts(self.content or []))


class StreamOptions(BaseModel):
    """What a stream contains beside the answer."""

    include_usage: bool = False


class PromptOptions(BaseModel):
    """What only the model itself can be told, beside OpenAI's fields."""

    model_config = ConfigDict(extra="forbid")

    qformer_text: Annotated[
        str | None, Field(description="What the Q-Former reads; prompt and begun answer unless given.")
    ] = None
    until: Annotated[Unit, Field(description="How much of the answer is wanted.")] = Unit.WHOLE
    stop_at: Annotated[str, Field(max_length=100, description="Nothing behind these words is wanted.")] = ""
    suppress: Annotated[list[str], Field(max_length=100, description="Words that must not be said.")] = []
    min_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] = 0
    repetition_penalty: Annotated[FiniteFloat, Field(gt=0, description="1 is none.")] = 1.0
    length_penalty: Annotated[FiniteFloat, Field(description="1 is none.")] = 1.0


class ChatRequest(DecodingOptions):
    """The newest question of the user about the newest image; or a prompt, for the model itself."""

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
    continue_final_message: bool = False
    add_generation_prompt: bool = True
    vigc: Annotated[PromptOptions, Field(description="For the model itself.")] = PromptOptions()
    kind: Annotated[Kind, Field(description="What the answer is like.")] = Kind.CONVERSATION

    def check_supported(self) -> None:
        """
        Raises:
            ApiError: it asks for something that cannot be had; to ignore it would give a wrong answer.
        """
        _refuse(
            self._never()
            | {
                "n": (self.n or 1) > 1,
                "logprobs": bool(self.logprobs),
                "continue_final_message": self.continue_final_message,
            }
        )

    def prompt(self) -> tuple[str, str]:
        """What the model itself reads: the user's text and the answer that is begun, as they are.

        Raises:
            ApiError: it asks for something that cannot be had, or is no prompt.
        """
        _refuse(
            self._never()
            | {
                "stream": bool(self.stream),
                "logprobs": bool(self.logprobs) and self.limit != 1,  # of one word: how likely are yes and no?
                "policy": self.policy is not None,
                "grounding": self.grounding is not None,
            }
        )
        if (self.n or 1) > MAX_CHOICES:
            raise wrong(f"At most {MAX_CHOICES} choices are given.", "n")
        turns = [message for message in self.messages if message.role in ("user", "assistant")]
        begun = turns.pop() if self.continue_final_message and turns and turns[-1].role == "assistant" else None
        if [turn.role for turn in turns] != ["user"]:
            raise wrong("The model itself reads one message of the user, and an answer that is begun.", "messages")
        prompt, prefix = turns[0].text(), "" if begun is None else begun.text()
        if not prompt.strip() or len(prompt) + len(prefix) > MAX_PROMPT_CHARS:
            raise wrong(f"A prompt has 1 to {MAX_PROMPT_CHARS} characters.", "messages")
        return prompt, prefix

    def _never(self) -> dict[str, bool]:
        """What can never be had: name, and whether it is asked for."""
        return {
            "tools": bool(self.tools),
            "functions": bool(self.functions),
            "response_format": (self.response_format or {}).get("type", "text") != "text",
            "stop": bool(self.stop),
        }

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
    """OpenAI's answer, and the whole conversation; of the model itself, where and why each choice ends."""

    vigc: dict[str, Any]


class VigcModel(Model):
    """OpenAI's entry of a model, and what it can be asked."""

    vigc: dict[str, Any]


class VigcModels(BaseModel):
    """OpenAI's list of models."""

    object: Literal["list"]
    data: list[VigcModel]


def _refuse(unsupported: Mapping[str, bool]) -> None:
    for name, is_asked in unsupported.items():
        if is_asked:
            raise wrong(f"{name} is not supported here.", name, "unsupported_parameter")


def _texts(parts: list[TextPart | ImagePart]) -> list[str]:
    return [part.text for part in parts if isinstance(part, TextPart)]
