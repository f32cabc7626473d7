"""A replica's engine, without Ray around it: it talks to many at once and lets go of who leaves."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from waiting import wait_until

from vigc.model.conversation.policy import make_policy
from vigc.platform.images.decode import decode_bytes
from vigc.platform.records import Conversation, Kind
from vigc.serve.messages import Failure, Fault, ReplicaTask, Started
from vigc.serve.replica import EngineReplica
from vigc.serve.settings import ServeSettings
from vigc.serve.validation import prepare


@pytest.fixture(scope="module")
def replica():
    made = EngineReplica(*prepare(ServeSettings(slots=8, objects="none"))[:2])
    yield made
    made.close()


@pytest.fixture(scope="module")
def task(jpeg):
    pixels = decode_bytes(jpeg, 160, 10**6).pixels
    return ReplicaTask("a", pixels, make_policy("paper"), (Kind.DETAIL,), 0, None, None, True)


async def conversation_of(replica, task):
    said = [event async for event in replica.converse(task)]
    assert isinstance(said[0], Started)
    assert isinstance(said[-1].event, Conversation)
    return said[-1].event


def steps(replica):
    """Decode steps until now, when the engine has nothing to do."""
    wait_until(lambda: replica._engine.num_under_way == replica._engine.num_in_use == 0)
    return replica._engine.metrics.num_steps


def test_requests_that_come_together_are_decoded_together(replica, task):
    async def both():
        before = steps(replica)
        first = await conversation_of(replica, task)
        alone = steps(replica)
        others = await asyncio.gather(*(conversation_of(replica, task) for _ in range(8)))
        return first, others, alone - before, steps(replica) - alone

    first, others, num_alone, num_together = asyncio.run(both())
    assert {other.answer for other in others} == {first.answer}
    assert num_together < 6 * num_alone  # one after the other would be 8


def test_who_leaves_frees_the_slots_at_once(replica, task):
    async def leave():
        talk = replica.converse(task)
        async for event in talk:
            if not isinstance(event, Started):
                break
        await talk.aclose()

    before = steps(replica)
    asyncio.run(leave())
    left = steps(replica)
    asyncio.run(conversation_of(replica, task))
    assert left - before < steps(replica) - left


def test_who_wants_no_steps_is_told_the_whole(replica, task):
    async def events(task):
        return [event async for event in replica.converse(task)]

    told, whole = asyncio.run(events(task)), asyncio.run(events(replace(task, wants_steps=False)))
    assert len(told) > 4
    assert (len(whole), whole[-1].event.answer) == (2, told[-1].event.answer)


def test_what_the_engine_cannot_do_is_the_request_s_fault(replica, task):
    async def events():
        return [event async for event in replica.converse(replace(task, policy=make_policy("shipped")))]

    failed = asyncio.run(events())[-1]
    assert isinstance(failed, Failure)
    assert failed.fault is Fault.REQUEST
    assert "beams" in failed.message


def test_a_replica_whose_engine_has_ended_says_that_it_is_ill(jpeg):
    replica = EngineReplica(*prepare(ServeSettings(objects="none"))[:2])
    asyncio.run(replica.check_health())
    replica.close()
    with pytest.raises(RuntimeError):
        asyncio.run(replica.check_health())
