"""An endpoint as a model that is evaluated and as a judge, against a real server on loopback."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from chat_server import ChatServer

from vigc.jobs.evaluate.endpoint import Declined, Endpoint, endpoint_settings
from vigc.platform.records import ConfigError, RunError


@pytest.fixture
def server():
    with ChatServer() as running:
        yield running


def ask(server, text="hello", picture=None, patience_s=20.0):
    async def run():
        settings = replace(endpoint_settings(server.url, "some"), patience_s=patience_s)
        endpoint = Endpoint(settings, max_tokens=512)
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
    with pytest.raises(RunError, match="gave no answer .status 500.*Run the same command"):
        ask(server, patience_s=0.5)


@pytest.mark.parametrize("variable", ["VIGC_API_KEY", "OPENAI_API_KEY"])
def test_the_key_of_either_variable_is_sent(server, monkeypatch, variable):
    for name in ("VIGC_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    ask(server)
    monkeypatch.setenv(variable, "the-key")
    ask(server)
    assert server.authorizations == [None, "Bearer the-key"]
