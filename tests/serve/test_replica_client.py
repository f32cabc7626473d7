"""A task whose replicas die, fill up or fall ill on the way."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError
from waiting import WAIT_S

from vigc.model.conversation.dialogue import Question
from vigc.model.conversation.policy import make_policy
from vigc.platform.records import CorrectionStep, Kind, Stop
from vigc.serve.errors import ApiError
from vigc.serve.messages import Failure, Fault, KindEvent, ReplicaTask, Started
from vigc.serve.metrics import Metrics
from vigc.serve.replica_client import MAX_DEATHS, ReplicaClient

TASK = ReplicaTask("a", b"", make_policy("paper"), (Kind.DETAIL, Kind.CONVERSATION), 0, None, None, True)
DETAIL = [KindEvent(Kind.DETAIL, Question(text, "")) for text in ("one", "two", "three")]
OTHER = [KindEvent(Kind.CONVERSATION, Question(text, "")) for text in ("A", "B")]


class Replicas:
    """Answers each call as it is told to: events, or an error in the midst of them."""

    def __init__(self, *scripts):
        self.scripts, self.num_calls, self.num_cancelled = list(scripts), 0, 0

    def remote(self, task):
        self.num_calls += 1
        return Answer(self, self.scripts[min(self.num_calls, len(self.scripts)) - 1])


class Answer:
    def __init__(self, replicas, script):
        self.replicas, self.script = replicas, iter(script)

    def __aiter__(self):
        return self

    async def __anext__(self):
        for event in self.script:
            if isinstance(event, Exception):
                raise event
            if event == "hang":
                await asyncio.sleep(60)
            return event
        raise StopAsyncIteration

    def cancel(self):
        self.replicas.num_cancelled += 1


def heard(replicas, timeout_s=WAIT_S):
    async def ask():
        return [event async for event in ReplicaClient(replicas, timeout_s, Metrics())(TASK)]

    return asyncio.run(ask())


def refusal(replicas, **more):
    with pytest.raises(ApiError) as error:
        heard(replicas, **more)
    return error.value.status_code, error.value.body.code


def test_what_was_told_before_a_death_is_not_told_again():
    """The kinds come in another order the second time."""
    first = [Started(1), DETAIL[0], OTHER[0], DETAIL[1], ActorDiedError()]
    second = [Started(1), OTHER[0], OTHER[1], DETAIL[0], DETAIL[1], DETAIL[2]]
    replicas = Replicas(first, second)
    assert heard(replicas) == [Started(1), DETAIL[0], OTHER[0], DETAIL[1], OTHER[1], DETAIL[2]]
    assert (replicas.num_calls, replicas.num_cancelled) == (2, 0)


def test_the_same_words_with_other_last_bits_are_the_same():
    step = CorrectionStep(" A cup.", "A cup.", Stop.SENTENCE, 3, -0.5)
    steps = [KindEvent(Kind.DETAIL, replace(step, mean_logprob=value)) for value in (-0.5, -0.500001)]
    assert heard(Replicas([Started(1), steps[0], ActorDiedError()], [Started(1), steps[1], DETAIL[1]])) == [
        Started(1),
        steps[0],
        DETAIL[1],
    ]


def test_a_second_replica_that_says_something_else_is_an_error_and_no_muddle():
    changed = replace(DETAIL[0], event=Question("other", ""))
    assert refusal(Replicas([Started(1), DETAIL[0], ActorDiedError()], [Started(1), changed])) == (503, "unavailable")


def test_an_image_that_kills_replicas_kills_few():
    replicas = Replicas([Started(1), ActorDiedError()])
    assert refusal(replicas) == (503, "unavailable")
    assert replicas.num_calls == MAX_DEATHS


def test_replicas_that_were_dead_before_are_passed_over(monkeypatch):
    monkeypatch.setattr("vigc.serve.replica_client.PAUSE_S", 0.01)
    dead = [[ActorDiedError()]] * 5
    assert heard(Replicas(*dead, [Started(1), DETAIL[0]])) == [Started(1), DETAIL[0]]


def test_a_lost_engine_is_a_death():
    lost = [Started(1), DETAIL[0], Failure("vLLM is gone", Fault.REPLICA)]
    assert heard(Replicas(lost, [Started(1), *DETAIL[:2]])) == [Started(1), *DETAIL[:2]]


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ([BackPressureError(3, 3)], (503, "overloaded")),
        ([Started(1), Failure("no beams", Fault.REQUEST)], (400, "unsupported_by_engine")),
        ([Started(1), Failure("odd", Fault.ENGINE)], (500, "internal_error")),
    ],
)
def test_what_cannot_be_answered_is_said_once(script, found):
    replicas = Replicas(script)
    assert refusal(replicas) == found
    assert replicas.num_calls == 1


def test_an_answer_that_takes_too_long_is_left():
    replicas = Replicas([Started(1), "hang"])
    assert refusal(replicas, timeout_s=0.1) == (504, "answer_timeout")
    assert replicas.num_cancelled == 1
