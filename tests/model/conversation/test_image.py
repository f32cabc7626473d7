"""The conversations about one image: events while they are held, and bounded."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from vigc.model.conversation.dialogue import Question
from vigc.model.conversation.image import ConversationSettings, hold_conversations
from vigc.model.conversation.policy import make_policy
from vigc.model.prompts import load_pack
from vigc.model.scenes import Split, make_scene, render
from vigc.platform.records import Conversation, CorrectionStep, Kind, Stop


def settings(**changes):
    values = {"pack": load_pack(), "policy": make_policy("paper"), "kinds": (Kind.DETAIL,), "seed": 0}
    return ConversationSettings(**values | changes)


@pytest.fixture(scope="module")
def pixels(network):
    scene = make_scene(Split.HELD_OUT, 1, 3)
    return np.asarray(render(scene, network.image_size)).tobytes()


def made(engine, pixels, what):
    events = []
    work = hold_conversations(engine, "a.jpg", pixels, what, lambda kind, event: events.append((kind, event)))
    spoken = asyncio.run(work)
    return spoken, events


def test_the_question_the_steps_and_the_whole_come_in_this_order(continuous, pixels):
    (spoken,), events = made(continuous, pixels, settings())

    assert len(spoken.steps) > 1
    assert [event for _, event in events] == [Question(spoken.question, spoken.vig_answer), *spoken.steps, spoken]
    assert {kind for kind, _ in events} == {Kind.DETAIL}


def test_of_many_kinds_each_has_its_events_in_order(continuous, pixels):
    kinds = (Kind.CONVERSATION, Kind.DETAIL, Kind.KNOWLEDGE)
    spoken, events = made(continuous, pixels, settings(kinds=kinds))

    for kind, conversation in zip(kinds, spoken, strict=True):
        types = [type(event) for of, event in events if of is kind]
        assert types == [Question, *[CorrectionStep] * len(conversation.steps), Conversation]


def test_a_question_that_is_there_is_answered_as_it_stands(continuous, pixels):
    (spoken,), events = made(
        continuous, pixels, settings(question="What is in the picture?", kinds=(Kind.CONVERSATION,))
    )

    assert spoken.question == "What is in the picture?"
    assert (spoken.vig_answer, bool(spoken.answer)) == ("", True)
    assert events[0][1] == Question("What is in the picture?", "")


@pytest.mark.parametrize("max_tokens", [1, 12, 40])
def test_no_more_is_decoded_than_may_be_and_only_whole_sentences_are_kept(continuous, pixels, max_tokens):
    what = {"question": "Describe the picture in detail."}
    (whole,), _ = made(continuous, pixels, settings(**what))
    (spoken,), _ = made(continuous, pixels, settings(**what, max_tokens=max_tokens))

    assert whole.num_tokens > 40
    assert spoken.num_tokens <= max_tokens
    assert whole.answer.startswith(spoken.answer)
    assert len(spoken.answer) < len(whole.answer)
    assert spoken.steps[-1].stop is Stop.LENGTH
