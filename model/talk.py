"""An engine at work: how a process starts one, and what it says about one image.

The actors of a run and the replicas of the service both go through here, so a row of either is the same. Heavy imports
happen when an engine is started; whoever only hands settings on stays light.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from vigc.model.completion import Complete, Completion, Request
from vigc.model.conversation import Policy, Question, answer_question, converse
from vigc.model.prompts import PromptPack
from vigc.platform.records import Conversation, CorrectionStep, Kind, Stop

if TYPE_CHECKING:
    from vigc.model.engines import Engine


@dataclass(frozen=True, slots=True)
class Talk:
    """What is said about an image."""

    pack: PromptPack
    policy: Policy
    kinds: tuple[Kind, ...]
    seed: int
    question: str | None = None  # answered by VIC, once for each kind; None: VIG asks
    max_tokens: int | None = None  # decoded for each conversation in all; None: as the policy goes


News = Question | CorrectionStep | Conversation


def start_engine(
    name: str,
    *,
    model: str,
    device: str,
    dtype: str,
    num_slots: int,
    memory_bytes: int | None,
    num_threads: int,
    vllm_python: str | None,
) -> Engine:
    """The engine of a process that has it to itself; see `make_engine` for the arguments.

    Raises:
        ConfigError, ModelError: as `load_network` and `make_engine`.
    """
    # Read when torch and transformers are imported. A thread that waits for its partner gives its core away, or
    # two engines on the same cores, or an engine and anything else, mostly wait for each other.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from vigc.model.engines import make_engine
    from vigc.model.network import load_network

    network = load_network(model, device=device, dtype=dtype)
    return make_engine(
        name,
        network,
        num_slots=num_slots,
        memory_bytes=memory_bytes,
        num_threads=num_threads,
        vllm_python=vllm_python,
    )


async def talk_about(
    engine: Engine,
    image_id: str,
    pixels: bytes,
    talk: Talk,
    listen: Callable[[Kind, News], None] | None = None,
) -> list[Conversation]:
    """All kinds at once; when one fails, the others are cancelled and free their slots.

    Args:
        image_id: sampling depends on it and the talk's seed.
        pixels: uint8 RGB at the engine's image size, row by row.
        listen: called with all that is said, as it is said.
    Raises:
        Exception: whatever the engine raised first.
    """
    import numpy as np

    picture = np.frombuffer(pixels, dtype=np.uint8).reshape(engine.image_size, engine.image_size, 3)
    try:
        async with engine.image(picture) as image, asyncio.TaskGroup() as group:
            complete = partial(engine.complete, image)
            tasks = [group.create_task(_conversation(complete, image_id, kind, talk, listen)) for kind in talk.kinds]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None  # the first to fail; the others were cancelled for it
    return [task.result() for task in tasks]


async def _conversation(
    complete: Complete, image_id: str, kind: Kind, talk: Talk, listen: Callable[[Kind, News], None] | None
) -> Conversation:
    if talk.max_tokens is not None:
        complete = _Limited(complete, talk.max_tokens)
    heard = partial(listen, kind) if listen is not None else None
    seed_key = f"{talk.seed}/{image_id}"
    if talk.question is None:
        made = await converse(complete, talk.pack, kind, talk.policy, seed_key=seed_key, listen=heard)
    else:
        made = await answer_question(
            complete, talk.pack, talk.question, talk.policy, kind=kind, seed_key=seed_key, listen=heard
        )
    if heard is not None:
        heard(made)
    return made


class _Limited:
    """Answers until so many tokens are decoded, and then with nothing, as at a token limit."""

    def __init__(self, complete: Complete, max_tokens: int) -> None:
        self._complete, self._left = complete, max_tokens

    async def __call__(self, request: Request) -> Completion:
        if self._left <= 0:
            return Completion("", Stop.LENGTH, 0, None)
        completion = await self._complete(replace(request, max_tokens=min(request.max_tokens, self._left)))
        self._left -= completion.num_tokens
        return completion
