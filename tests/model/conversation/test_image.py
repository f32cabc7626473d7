"""What an engine says about one image: heard while it is said, and bounded."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from vigc.model.conversation.dialogue import Question
from vigc.model.conversation.image import Talk, talk_about
from vigc.model.conversation.policy import make_policy
from vigc.model.prompts import load_pack
from vigc.model.scenes import Split, make_scene, render
from vigc.platform.records import Conversation, CorrectionStep, Kind, Stop


def talk(**changes):
    settings = {"pack": load_pack(), "policy": make_policy("paper"), "kinds": (Kind.DETAIL,), "seed": 0}
    return Talk(**settings | changes)


@pytest.fixture(scope="module")
def pixels(network):
    scene = make_scene(Split.HELD_OUT, 1, 3)
    return np.asarray(render(scene, network.image_size)).tobytes()


def made(engine, pixels, what):
    heard = []
    spoken = asyncio.run(talk_about(engine, "a.jpg", pixels, what, lambda kind, news: heard.append((kind, news))))
    return spoken, heard


def test_the_question_the_steps_and_the_whole_are_heard_in_this_order(continuous, pixels):
    (spoken,), heard = made(continuous, pixels, talk())

    assert len(spoken.steps) > 1
    assert [news for _, news in heard] == [Question(spoken.question, spoken.vig_answer), *spoken.steps, spoken]
    assert {kind for kind, _ in heard} == {Kind.DETAIL}


def test_of_many_kinds_each_is_heard_as_it_goes(continuous, pixels):
    kinds = (Kind.CONVERSATION, Kind.DETAIL, Kind.KNOWLEDGE)
    spoken, heard = made(continuous, pixels, talk(kinds=kinds))

    for kind, conversation in zip(kinds, spoken, strict=True):
        types = [type(news) for of, news in heard if of is kind]
        assert types == [Question, *[CorrectionStep] * len(conversation.steps), Conversation]


def test_a_question_that_is_there_is_answered_as_it_stands(continuous, pixels):
    (spoken,), heard = made(continuous, pixels, talk(question="What is in the picture?", kinds=(Kind.CONVERSATION,)))

    assert spoken.question == "What is in the picture?"
    assert (spoken.vig_answer, bool(spoken.answer)) == ("", True)
    assert heard[0][1] == Question("What is in the picture?", "")


@pytest.mark.parametrize("max_tokens", [1, 12, 40])
def test_no_more_is_decoded_than_may_be_and_only_whole_sentences_are_kept(continuous, pixels, max_tokens):
    what = {"question": "Describe the picture in detail."}
    (whole,), _ = made(continuous, pixels, talk(**what))
    (spoken,), _ = made(continuous, pixels, talk(**what, max_tokens=max_tokens))

    assert whole.num_tokens > 40
    assert spoken.num_tokens <= max_tokens
    assert whole.answer.startswith(spoken.answer)
    assert len(spoken.answer) < len(whole.answer)
    assert spoken.steps[-1].stop is Stop.LENGTH
