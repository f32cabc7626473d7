"""POST /v1/chat/completions without Ray; test_service.py has OpenAI's own client."""

from __future__ import annotations

import json

import pytest


def ask(client, uri, detail="auto", text="What is at the top left?", **more):
    image = {"type": "image_url", "image_url": {"url": uri, "detail": detail}}
    content = [{"type": "text", "text": text}, image]
    body = {"model": "embedded", "messages": [{"role": "user", "content": content}], **more}
    return client.post("/v1/chat/completions", json=body)


@pytest.mark.parametrize(("text", "max_tokens"), [("What is at the top left?", 3), ("", 130)])
def test_an_answer_that_is_cut_in_a_sentence_ends_with_what_there_is_of_it(client, uri, text, max_tokens):
    options = {"kind": "detail", "text": text, "max_tokens": max_tokens}
    (choice,) = ask(client, uri, **options).json()["choices"]
    whole = ask(client, uri, text=text, kind="detail").json()["choices"][0]["message"]["content"]
    chunks = [line.removeprefix("data: ") for line in ask(client, uri, **options, stream=True).text.split("\n\n")]
    deltas = [json.loads(chunk)["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk[:1] == "{"]

    text = choice["message"]["content"]
    assert (choice["finish_reason"], whole.startswith(text), text[-1:] != ".") == ("length", True, True)
    assert text
    assert "".join(deltas) == text


def test_a_detail_that_openai_may_yet_invent_changes_nothing(client, uri):
    answers = [ask(client, uri, detail).json()["choices"] for detail in ("low", "original")]
    assert answers[0] == answers[1]
