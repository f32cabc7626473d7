"""What the gateway and an engine's replica send to each other."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from enum import StrEnum

from vigc.model.completion import Completion, Request
from vigc.model.conversation.image import ConversationEvent
from vigc.model.conversation.policy import Policy
from vigc.platform.records import Kind, TokenUsage


@dataclass(frozen=True, slots=True)
class ReplicaTask:
    """One image, and what a replica is asked about it."""

    image_id: str
    pixels: bytes  # in the engine's `image_form`
    policy: Policy
    kinds: tuple[Kind, ...]
    seed: int
    question: str | None
    max_tokens: int | None
    wants_steps: bool  # False: each kind sends only its Conversation, which costs less


@dataclass(frozen=True, slots=True)
class PromptTask:
    """One image, and a prompt about it that the model itself answers."""

    pixels: bytes  # in the engine's `image_form`
    request: Request
    words: tuple[str, ...]  # whose log-probability as the answer is wanted


@dataclass(frozen=True, slots=True)
class Started:
    """A replica has taken the task."""

    num_prompt_tokens: int | None  # of a given question, visual tokens included


@dataclass(frozen=True, slots=True)
class KindEvent:
    """An event of one kind's conversation; the last one is the Conversation."""

    kind: Kind
    event: ConversationEvent


@dataclass(frozen=True, slots=True)
class Counted:
    """What the model's server counted for the whole task; where it has one, it comes last."""

    usage: TokenUsage


@dataclass(frozen=True, slots=True)
class Completed:
    """The answers to a prompt."""

    completions: list[Completion]
    scores: list[float]  # of the task's words, nats
    num_prompt_tokens: int


class Fault(StrEnum):
    """Why there is no answer."""

    REQUEST = "request"  # it asks for something that the engine cannot do
    REFUSED = "refused"  # the model's server does not take the key or the model that it is asked with
    SILENT = "silent"  # the model's server does not answer
    ENGINE = "engine"  # the engine failed, and goes on
    REPLICA = "replica"  # the engine is lost; another replica may answer


@dataclass(frozen=True, slots=True)
class Failure:
    """There will be no answer."""

    message: str
    fault: Fault


ReplicaEvent = Started | KindEvent | Counted | Completed
Ask = Callable[[ReplicaTask | PromptTask], AsyncGenerator[ReplicaEvent, None]]  # raises ApiError
