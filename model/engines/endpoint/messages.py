"""Chat completions as the protocol has them: turns that are sent, and what an answer says."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vigc.platform.records import TokenUsage


def image_part(data: bytes, name: str | None = None) -> dict[str, Any]:
    """
    Args:
        data: an encoded image; JPEG, PNG or WebP.
        name: that a server remembers the image by; None: it does not.
    """
    url = f"data:{media_type(data)};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}} | ({} if name is None else {"uuid": name})


def image_name(data: bytes) -> str:
    """No other image has it, whoever else uses the server."""
    return hashlib.sha256(data).hexdigest()


def named_image(name: str) -> dict[str, Any]:
    """In place of an image that the server remembers (vLLM's docs, "Multimodal Inputs")."""
    return {"type": "image_url", "image_url": None, "uuid": name}


def media_type(data: bytes) -> str:
    if data.startswith(b"\xff\xd8"):
        return "image/jpeg"
    return "image/webp" if data.startswith(b"RIFF") else "image/png"


def user_turn(text: str, images: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """The images stand first, so that what all requests about an image share is their beginning (prefix caching)."""
    return {"role": "user", "content": [*images, {"type": "text", "text": text}]}


def continued(turns: Sequence[dict[str, Any]], begun: str) -> list[dict[str, Any]]:
    """The turns with an answer that is begun. Templates strip blanks at its end, so it must not have any."""
    return [*turns, {"role": "assistant", "content": begun}]


@dataclass(frozen=True, slots=True)
class Speech:
    """One choice of an answer."""

    text: str
    finish: str  # stop, length, content_filter, …
    refusal: str | None
    thought: str  # a reasoning trace that the server keeps apart
    tokens: list[tuple[str, float]] = field(default_factory=list)  # with their log-probabilities, nats
    alternatives: list[dict[str, float]] = field(default_factory=list)  # the likeliest tokens at each place


def speech_of(answer: Mapping[str, Any], index: int = 0) -> Speech:
    """A choice of an answer whose choices were checked."""
    choice = answer["choices"][index]
    message = choice["message"]
    logprobs = choice.get("logprobs") or {}
    entries = [one for one in logprobs.get("content") or () if isinstance(one, dict)]
    return Speech(
        text=message.get("content") or "",
        finish=str(choice.get("finish_reason") or "stop"),
        refusal=message.get("refusal") or None,
        thought=message.get("reasoning_content") or message.get("reasoning") or "",
        tokens=[(str(one.get("token", "")), _logprob(one)) for one in entries],
        alternatives=[
            {str(other.get("token", "")): _logprob(other) for other in one.get("top_logprobs") or ()} for one in entries
        ],
    )


def choice_text(answer: Mapping[str, Any]) -> str:
    return speech_of(answer).text


def usage_of(answer: Mapping[str, Any]) -> TokenUsage:
    """Zeros where the server does not say."""
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        return TokenUsage()
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    return TokenUsage(*(count if isinstance(count, int) and count >= 0 else 0 for count in counts))


def log_odds(speech: Speech, yes: str, no: str) -> float | None:
    """log p(yes) - log p(no) of a one-word answer, over all tokens that begin either word; None: neither is there.

    Where only one of them is among the likeliest tokens, the other counts as likely as the least likely of those.
    """
    if not speech.alternatives:
        return None
    found = speech.alternatives[0]
    sums = [_total(found, word) for word in (yes, no)]
    if not any(math.isfinite(value) for value in sums):
        return None
    least = min((value for value in found.values() if math.isfinite(value)), default=-20.0)
    positive, negative = (value if math.isfinite(value) else least for value in sums)
    return positive - negative


def _total(found: Mapping[str, float], word: str) -> float:
    """log of the summed probability of the tokens that are the word, in any case, with or without a blank before it."""
    values = [value for token, value in found.items() if token.strip().lower() == word.strip().lower()]
    highest = max(values, default=-math.inf)
    return highest + math.log(sum(math.exp(value - highest) for value in values)) if values else -math.inf


def _logprob(entry: Mapping[str, Any]) -> float:
    value = entry.get("logprob")
    return float(value) if isinstance(value, int | float) else -math.inf
