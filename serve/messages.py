"""What the gateway and an engine's replica say to each other."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from enum import StrEnum

from vigc.model.conversation.image import News
from vigc.model.conversation.policy import Policy
from vigc.platform.records import Kind


@dataclass(frozen=True, slots=True)
class ReplicaTask:
    """One image to be talked about."""

    image_id: str
    pixels: bytes  # uint8 RGB at the model's image size, row by row
    policy: Policy
    kinds: tuple[Kind, ...]
    seed: int
    question: str | None
    max_tokens: int | None
    wants_steps: bool  # else each kind is told when it is over, which costs less


@dataclass(frozen=True, slots=True)
class Started:
    """A replica has taken the task."""

    num_prompt_tokens: int | None  # of a given question, visual tokens included


@dataclass(frozen=True, slots=True)
class KindEvent:
    """Something was said; each kind ends with its Conversation."""

    kind: Kind
    news: News


class Fault(StrEnum):
    """Whose fault it is that there is no answer."""

    REQUEST = "request"  # it asks for what the engine cannot do
    ENGINE = "engine"
    REPLICA = "replica"  # it is of no use any more; another one may answer


@dataclass(frozen=True, slots=True)
class Failure:
    """There will be no answer."""

    message: str
    fault: Fault


ReplicaEvent = Started | KindEvent
Ask = Callable[[ReplicaTask], AsyncGenerator[ReplicaEvent, None]]  # raises ApiError
