"""Endpoints and judges against a real server on loopback."""

from __future__ import annotations

import asyncio
import json

import pytest
from chat_server import ChatServer

from vigc.platform.evaluation.endpoint import ChatEndpoint, Declined, Endpoint
from vigc.platform.evaluation.judging import Case, Judgements
from vigc.platform.records import ConfigError, InputError, RunError


@pytest.fixture
def server():
    with ChatServer() as running:
        yield running


def ask(server, text="hello", picture=None, patience_s=20.0):
    async def run():
        endpoint = Endpoint(ChatEndpoint(server.url, "some", patience_s=patience_s))
        try:
            return await endpoint.ask(text, picture)
        finally:
            await endpoint.close()

    return asyncio.run(run())


def test_text_and_picture_arrive_as_they_should(server):
    assert ask(server, "What?", b"\xff\xd8picture") == "reply to: What?"
    content = server.requests[0]["messages"][0]["content"]
    assert content[0]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert server.requests[0]["temperature"] == 0


def test_what_passes_is_tried_again_and_what_does_not_is_told(server):
    server.failures = [503, 429]
    assert ask(server) == "reply to: hello"
    assert len(server.requests) == 3
    server.failures = [400]
    with pytest.raises(Declined, match="400"):
        ask(server)
    server.failures = [401]
    with pytest.raises(ConfigError, match="VIGC_API_KEY"):
        ask(server)
    server.failures = [500] * 50
    with pytest.raises(RunError, match="kept answering 500"):
        ask(server, patience_s=0.5)


CASES = [Case(f"{n}", f"judge {n}", str.isdigit, num_tries=2) for n in range(3)]


def test_judgements_are_asked_once_and_replayed_without_a_judge(tmp_path):
    asked = []

    async def judge(prompt):
        asked.append(prompt)
        return "5" if prompt != "judge 1" or asked.count("judge 1") == 2 else "hm"

    file = tmp_path / "judgements.jsonl"
    first = asyncio.run(Judgements("j", [file], file).of(CASES, judge))
    assert first == {"0": "5", "1": "5", "2": "5"}
    assert len(asked) == 4
    assert asyncio.run(Judgements("j", [file], file).of(CASES, None)) == first
    with pytest.raises(ConfigError, match="3 of 3 judgements are not recorded"):
        asyncio.run(Judgements("another", [file], file).of(CASES, None))
    whole = file.read_text()
    file.write_text(whole + '{"key": "torn')
    assert asyncio.run(Judgements("j", [file], file).of(CASES, None)) == first
    assert file.read_text() == whole
    file.write_text("{}\n" + whole)
    with pytest.raises(InputError, match="line 1 is no judgement"):
        Judgements("j", [file], file)
    assert json.loads(whole.splitlines()[0])["judge"] == "j"
