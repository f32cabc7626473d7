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
from vigc.serve.messages import Begun, Failed, Fault, Said, Task
from vigc.serve.replica_client import MAX_DEATHS, AskReplicas

TASK = Task("a", b"", make_policy("paper"), (Kind.DETAIL, Kind.CONVERSATION), 0, None, None, True)
DETAIL = [Said(Kind.DETAIL, Question(text, "")) for text in ("one", "two", "three")]
OTHER = [Said(Kind.CONVERSATION, Question(text, "")) for text in ("A", "B")]


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
        return [event async for event in AskReplicas(replicas, timeout_s)(TASK)]

    return asyncio.run(ask())


def refusal(replicas, **more):
    with pytest.raises(ApiError) as error:
        heard(replicas, **more)
    return error.value.status, error.value.body.code


def test_what_was_told_before_a_death_is_not_told_again():
    """The kinds come in another order the second time."""
    first = [Begun(1), DETAIL[0], OTHER[0], DETAIL[1], ActorDiedError()]
    second = [Begun(1), OTHER[0], OTHER[1], DETAIL[0], DETAIL[1], DETAIL[2]]
    replicas = Replicas(first, second)
    assert heard(replicas) == [Begun(1), DETAIL[0], OTHER[0], DETAIL[1], OTHER[1], DETAIL[2]]
    assert (replicas.num_calls, replicas.num_cancelled) == (2, 0)


def test_the_same_words_with_other_last_bits_are_the_same():
    step = CorrectionStep(" A cup.", "A cup.", Stop.SENTENCE, 3, -0.5)
    steps = [Said(Kind.DETAIL, replace(step, mean_logprob=value)) for value in (-0.5, -0.500001)]
    assert heard(Replicas([Begun(1), steps[0], ActorDiedError()], [Begun(1), steps[1], DETAIL[1]])) == [
        Begun(1),
        steps[0],
        DETAIL[1],
    ]


def test_a_second_replica_that_says_something_else_is_an_error_and_no_muddle():
    changed = replace(DETAIL[0], news=Question("other", ""))
    assert refusal(Replicas([Begun(1), DETAIL[0], ActorDiedError()], [Begun(1), changed])) == (503, "unavailable")


def test_a_picture_that_kills_replicas_kills_few():
    replicas = Replicas([Begun(1), ActorDiedError()])
    assert refusal(replicas) == (503, "unavailable")
    assert replicas.num_calls == MAX_DEATHS


def test_replicas_that_were_dead_before_are_passed_over(monkeypatch):
    monkeypatch.setattr("vigc.serve.replica_client.PAUSE_S", 0.01)
    dead = [[ActorDiedError()]] * 5
    assert heard(Replicas(*dead, [Begun(1), DETAIL[0]])) == [Begun(1), DETAIL[0]]


def test_a_lost_engine_is_a_death():
    lost = [Begun(1), DETAIL[0], Failed("vLLM is gone", Fault.REPLICA)]
    assert heard(Replicas(lost, [Begun(1), *DETAIL[:2]])) == [Begun(1), *DETAIL[:2]]


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ([BackPressureError(3, 3)], (503, "overloaded")),
        ([Begun(1), Failed("no beams", Fault.REQUEST)], (400, "unsupported_by_engine")),
        ([Begun(1), Failed("odd", Fault.ENGINE)], (500, "internal_error")),
    ],
)
def test_what_cannot_be_answered_is_said_once(script, found):
    replicas = Replicas(script)
    assert refusal(replicas) == found
    assert replicas.num_calls == 1


def test_an_answer_that_takes_too_long_is_left():
    replicas = Replicas([Begun(1), "hang"])
    assert refusal(replicas, timeout_s=0.1) == (504, "answer_timeout")
    assert replicas.num_cancelled == 1
