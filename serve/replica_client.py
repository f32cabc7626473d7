"""A task on its way to a replica and back, whatever happens to replicas meanwhile.

The same task gives the same answer on every replica, so when one dies, another is asked, and what has been told already
is not told twice. A gateway that is left by its client leaves the replica, too.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from vigc.platform.records import Conversation, CorrectionStep, Kind
from vigc.serve.errors import ApiError, internal, overloaded, unavailable, wrong
from vigc.serve.messages import Failure, Fault, KindEvent, ReplicaEvent, ReplicaTask

MAX_DEATHS = 2  # as many as one picture may cost
PAUSE_S = 0.5  # in which Serve learns that a replica is gone
log = logging.getLogger("ray.serve")


class ReplicaClient:
    """See the module.

    Args:
        talk: `EngineReplica.talk` of a deployment handle that streams.
        timeout_s: for a whole answer.
    """

    def __init__(self, talk: Any, timeout_s: float) -> None:
        self._talk, self._timeout_s = talk, timeout_s

    async def __call__(self, task: ReplicaTask) -> AsyncGenerator[ReplicaEvent, None]:
        """
        Raises:
            ApiError: no replica can take the task or finish it, or the engine refuses it.
        """
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

        told, give_up = _Told(), asyncio.get_running_loop().time() + self._timeout_s
        num_deaths = 0  # of replicas that had begun
        while num_deaths < MAX_DEATHS:
            told.again()
            answer = self._talk.remote(task)
            is_over, has_begun = False, False
            try:
                while (event := await _next(answer, give_up)) is not None:
                    has_begun = True
                    if isinstance(event, Failure):
                        _refuse(event)
                        log.warning("A replica lost its engine while it answered: %s", event.message)
                        break
                    if told.is_new(event):
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
            num_deaths += has_begun  # one that is dead already, as Serve does not know yet, says nothing of the request
            await asyncio.sleep(PAUSE_S)
        raise unavailable(f"{MAX_DEATHS} replicas died one after the other while they answered this. Try again.")


async def _next(answer: AsyncIterator[ReplicaEvent | Failure], give_up: float) -> ReplicaEvent | Failure | None:
    async with asyncio.timeout_at(give_up):
        return await anext(answer, None)


def _refuse(failed: Failure) -> None:
    if failed.fault is Fault.REQUEST:
        raise wrong(failed.message, code="unsupported_by_engine")
    if failed.fault is Fault.ENGINE:
        raise internal()


class _Told:
    """What a client has been told, kind by kind: kinds are talked about at once, in no order among themselves."""

    def __init__(self) -> None:
        self._events: dict[tuple[Kind | None, int], ReplicaEvent] = {}
        self._now: Counter[Kind | None] = Counter()

    def again(self) -> None:
        self._now.clear()

    def is_new(self, event: ReplicaEvent) -> bool:
        """
        Raises:
            ApiError: a second replica says something else than the first did.
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
    """What was said, without measures: their last bits go with who else is decoded at the time."""
    match event:
        case KindEvent(kind, CorrectionStep() as step):
            return kind, step.text, step.kept
        case KindEvent(kind, Conversation() as spoken):
            return kind, spoken.vig_answer, spoken.answer
        case KindEvent():
            return event
        case _:
            return None
