"""Sends a task to a replica and yields its events, also when replicas die meanwhile.

The same task gives the same answer on every replica. So when one dies, another is asked, and the events that were
yielded already are not yielded again. When the client leaves, the call to the replica is cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from vigc.platform.records import Conversation, CorrectionStep, Kind
from vigc.serve.errors import ApiError, internal, overloaded, refused, unavailable, wrong
from vigc.serve.messages import Completed, Failure, Fault, KindEvent, PromptTask, ReplicaEvent, ReplicaTask
from vigc.serve.metrics import Metrics

MAX_DEATHS = 2  # of replicas, for one request
PAUSE_S = 0.5  # until Serve knows that a replica is gone
log = logging.getLogger("ray.serve")


class ReplicaClient:
    """See the module.

    Args:
        method: `EngineReplica.converse` of a deployment handle that streams.
        timeout_s: for a whole answer.
        metrics: learn how long answers take.
    """

    def __init__(self, method: Any, timeout_s: float, metrics: Metrics) -> None:
        self._method, self._timeout_s, self._metrics = method, timeout_s, metrics

    async def __call__(self, task: ReplicaTask | PromptTask) -> AsyncGenerator[ReplicaEvent, None]:
        """
        Raises:
            ApiError: no replica can take the task or finish it, or the engine refuses it.
        """
        began, has_step, num_tokens = time.monotonic(), False, 0
        async with aclosing(self._events(task)) as events:
            async for message in events:
                event = message.event if isinstance(message, KindEvent) else None
                if isinstance(event, CorrectionStep) and not has_step:
                    has_step = True
                    self._metrics.first_sentence(time.monotonic() - began)
                elif isinstance(event, Conversation):
                    num_tokens += event.num_tokens
                yield message
        self._metrics.answered(time.monotonic() - began, num_tokens)

    async def _events(self, task: ReplicaTask | PromptTask) -> AsyncGenerator[ReplicaEvent, None]:
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

        replay, give_up = _Replay(), asyncio.get_running_loop().time() + self._timeout_s
        num_deaths = 0  # of replicas that had begun
        while num_deaths < MAX_DEATHS:
            replay.restart()
            answer = self._method.remote(task)
            is_over, has_begun = False, False
            try:
                while (event := await _next(answer, give_up)) is not None:
                    has_begun = True
                    if isinstance(event, Failure):
                        _refuse(event)
                        log.warning("A replica lost its engine while it answered: %s", event.message)
                        break
                    if replay.is_new(event):
                        yield event
                is_over = True
                if event is None:
                    return
            except TimeoutError as error:
                raise ApiError(
                    504, f"There was no answer within {self._timeout_s:g} s.", code="answer_timeout"
                ) from error
            except BackPressureError as full:
                is_over = True
                raise overloaded() from full
            except DeploymentUnavailableError as gone:
                is_over = True
                raise unavailable("The model could not be started; the log has the reason.") from gone
            except RayActorError as death:
                is_over = True
                log.warning("A replica died %s: %s", "while it answered" if has_begun else "before it began", death)
            finally:
                if not is_over:
                    answer.cancel()
            num_deaths += has_begun  # a replica that was dead before says nothing about the request
            await asyncio.sleep(PAUSE_S)
        raise unavailable(f"{MAX_DEATHS} replicas died one after the other while they answered this. Try again.")


async def _next(answer: AsyncIterator[ReplicaEvent | Failure], give_up: float) -> ReplicaEvent | Failure | None:
    async with asyncio.timeout_at(give_up):
        return await anext(answer, None)


def _refuse(failed: Failure) -> None:
    if failed.fault is Fault.REQUEST:
        raise wrong(failed.message, code="unsupported_by_engine")
    if failed.fault is Fault.REFUSED:
        raise refused(f"The model's server refuses: {failed.message}")
    if failed.fault is Fault.SILENT:
        raise unavailable(f"The model's server does not answer: {failed.message}")
    if failed.fault is Fault.ENGINE:
        raise internal()


class _Replay:
    """Knows which events were yielded, kind by kind: kinds are answered at once, in no order among themselves."""

    def __init__(self) -> None:
        self._events: dict[tuple[Kind | None, int], ReplicaEvent] = {}
        self._now: Counter[Kind | None] = Counter()

    def restart(self) -> None:
        self._now.clear()

    def is_new(self, event: ReplicaEvent) -> bool:
        """
        Raises:
            ApiError: a second replica answers otherwise than the first did.
        """
        kind = event.kind if isinstance(event, KindEvent) else None
        place = kind, self._now[kind]
        self._now[kind] += 1
        if place not in self._events:
            self._events[place] = event
            return True
        if _words(self._events[place]) != _words(event):
            raise unavailable("A replica died while it answered, and another answers otherwise. Try again.")
        return False


def _words(event: ReplicaEvent) -> object:
    """The texts of an event without its measures, whose last bits depend on the rest of the engine's batch."""
    match event:
        case KindEvent(kind, CorrectionStep() as step):
            return kind, step.text, step.kept
        case KindEvent(kind, Conversation() as spoken):
            return kind, spoken.vig_answer, spoken.answer
        case Completed(completions):
            return [one.text for one in completions]
        case KindEvent():
            return event
        case _:
            return None
