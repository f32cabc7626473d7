"""What is asked of a language model, and what comes back: the vocabulary between conversations and engines."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from vigc.model.sentences import Unit
from vigc.platform.records import Stop

# How many continuations an engine decodes at once, at most, where nobody says. Beyond, a GPU's memory bandwidth goes
# into keys and values, and nothing is won.
CPU_SLOTS, GPU_SLOTS = 128, 256


class RequestFailed(Exception):
    """A model that works does not answer this request, and would not if it were asked again.

    `kind` is a short stable name: refused, too_long, image_unreadable, bad_request, malformed, server_error.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.kind, self.message = kind, message

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


@dataclass(frozen=True, slots=True)
class Request:
    """One continuation of `prompt + prefix` about one image."""

    qformer_text: str  # what the Q-Former reads beside its queries
    prompt: str  # what the language model reads behind the visual tokens
    prefix: str = ""  # the answer so far, which the continuation joins without a seam
    until: Unit = Unit.WHOLE
    max_tokens: int = 250
    min_tokens: int = 0
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0
    seed: int = 0
    n: int = 1  # candidates
    num_beams: int = 1  # above 1 in the reference engine only
    repetition_penalty: float = 1.0  # sees new tokens only (model/README.md, Q10)
    length_penalty: float = 1.0
    suppress: tuple[str, ...] = ()  # words that must not be said
    stop_at: str = ""  # nothing behind these words is wanted; the continuation may end with them


@dataclass(frozen=True, slots=True)
class Completion:
    """What came back. The text keeps its leading blank, so that `prompt + prefix + text` is seamless."""

    text: str  # up to the end of the first unit where `stop` says so, else everything decoded
    stop: Stop  # SENTENCE, PARAGRAPH, MARK: cut there; an engine may also decode on and answer END or LENGTH
    num_tokens: int  # decoded for it, end mark included; 0 where an earlier completion had decoded it already
    mean_logprob: float | None  # nats per token; None where nothing was decoded or the engine cannot tell


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """One token of a text that was given, and how likely it was there."""

    end: int  # characters of the text up to its end
    logprob: float  # nats


Complete = Callable[[Request], Awaitable[Completion]]
Candidates = Callable[[Request], Awaitable[list[Completion]]]  # `Request.n` of them


def derive_seed(*parts: object) -> int:
    """A seed that depends on these parts only: (run seed, image_id, kind, step, candidate)."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seeds_of(request: Request) -> list[int]:
    """One for each candidate."""
    return [request.seed, *(derive_seed(request.seed, number) for number in range(1, request.n))]
