"""The engine behind a server: what it finds out, what it asks, and that no fault of the server's becomes an image's."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import openai
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from PIL import Image
from vision_server import VisionServer, sentences_about, words_of

from vigc.model.completion import Request, RequestFailed
from vigc.model.conversation.image import ConversationSettings, hold_conversations
from vigc.model.conversation.policy import make_policy
from vigc.model.engines.endpoint.abilities import CONTINUE, find_abilities, find_model
from vigc.model.engines.endpoint.address import clean_url
from vigc.model.engines.endpoint.client import MAX_MALFORMED, Client
from vigc.model.engines.endpoint.engine import EndpointEngine
from vigc.model.engines.endpoint.limit import ConcurrencyLimit
from vigc.model.engines.settings import MAX_PIXELS, Abilities, EndpointSettings
from vigc.model.prompts import CHAT, load_pack
from vigc.model.sentences import Unit
from vigc.platform.records import ConfigError, Kind, RunError, Stop, Verdict

PACK = load_pack(CHAT)


def picture(shade: int = 100) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 24), (shade % 256, 3 * shade % 256, 90)).save(file, "PNG")
    return file.getvalue()


def settings(server: VisionServer, **changes: Any) -> EndpointSettings:
    return EndpointSettings(**{"url": server.url, "model": "tiny-vision", "patience_s": 60, **changes})


def with_engine(use: Callable[[EndpointEngine], Awaitable[Any]], server: VisionServer, **changes: Any) -> Any:
    async def run() -> Any:
        engine = EndpointEngine(settings(server, **changes))
        try:
            return await use(engine)
        finally:
            await engine.aclose()

    return asyncio.run(run())


def abilities_of(server: VisionServer) -> Any:
    async def run() -> Any:
        client = Client(settings(server, model=""))
        try:
            return await find_abilities(client, *await find_model(client, settings(server, model="")), settings(server))
        finally:
            await client.close()

    return asyncio.run(run())


def test_what_a_server_can_is_found_by_asking() -> None:
    with VisionServer() as server:
        found = abilities_of(server)
    assert (found.logprobs, found.continues, found.candidates, found.seed) == (True, True, True, True)
    assert found.is_deterministic
    assert found.context_length == 4096
    assert (found.schema, found.usage, found.max_pixels) == (True, True, MAX_PIXELS)


async def describe_once(engine: EndpointEngine) -> str:
    async with engine.image(picture()) as image:
        return (await engine.complete(image, Request("", "Describe it."))).text


@pytest.mark.parametrize(("start_mark", "is_added"), [(None, False), ("in the template", False), ("missing", True)])
def test_a_start_mark_that_a_server_leaves_out_of_chats_is_asked_for(start_mark: str | None, is_added: bool) -> None:
    with VisionServer(start_mark=start_mark) as server:
        assert abilities_of(server).adds_start_mark is is_added
        server.bodies.clear()
        with_engine(describe_once, server)
    assert server.bodies[-1].get("add_special_tokens", False) is is_added


def test_an_image_is_sent_once_and_then_named_where_the_server_remembers_it() -> None:
    async def ask(engine: EndpointEngine) -> list[str]:
        async with engine.image(picture()) as image:
            said = [(await engine.complete(image, Request("", f"Describe part {n}."))).text for n in range(3)]
            if server.remembers is not None:
                server.remembers.clear()
            said.append((await engine.complete(image, Request("", "Describe the rest."))).text)
            yes = await engine.score(image, "Is there a tree?", "yes")
        return [*said, str(yes)]

    sent: dict[bool, list[bool]] = {}
    texts = []
    for remembers in (False, True):
        with VisionServer(remembers=remembers) as server:
            assert abilities_of(server).remembers_images is remembers
            server.bodies.clear()
            texts.append(with_engine(ask, server, abilities=Abilities(remembers_images=remembers)))
            sent[remembers] = [body["messages"][0]["content"][0]["image_url"] is not None for body in server.bodies]
    assert texts[0] == texts[1]
    assert sent[False] == [True] * 5
    # The fourth is named in vain, and sent anew at once.
    assert sent[True] == [True, False, False, False, True, False]


def test_a_request_that_the_server_fails_at_while_it_answers_others_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answer(body: dict[str, Any]) -> str:
        if "poison" in str(body["messages"]):
            raise ValueError("cannot")
        return "All is well."

    async def ask(engine: EndpointEngine) -> str:
        async with engine.image(picture()) as image:
            poison = asyncio.ensure_future(engine.complete(image, Request("", "poison")))
            while not poison.done():
                await engine.complete(image, Request("", f"Describe it. {asyncio.get_running_loop().time()}"))
                await asyncio.sleep(0.05)
            with pytest.raises(RequestFailed) as failed:
                await poison
            return str(failed.value.kind)

    monkeypatch.setattr("vigc.model.engines.endpoint.client.MAX_ERRORS", 3)
    with VisionServer(answer=answer) as server:
        assert with_engine(ask, server, abilities=Abilities()) == "server_error"


def test_the_largest_image_that_a_server_takes_is_found() -> None:
    with VisionServer(max_pixels=300_000) as server:
        found = abilities_of(server)
    assert 150_000 < (found.max_pixels or 0) <= 300_000


def test_a_server_that_ignores_what_it_is_asked_is_not_believed() -> None:
    with VisionServer(logprobs=False, continues=False, candidates=False, schema=False, usage=False) as server:
        found = abilities_of(server)
    assert (found.logprobs, found.continues, found.candidates) == (False, False, False)
    assert (found.schema, found.usage) == (False, False)


def test_a_server_that_begins_the_answer_anew_does_not_continue_it() -> None:
    class Anew(VisionServer):
        def _choice(self, body: dict[str, Any], index: int) -> dict[str, Any]:
            return super()._choice({**body, "continue_final_message": False}, index)

    with Anew() as server:
        assert not abilities_of(server).continues


def test_several_models_want_a_name_and_a_wrong_name_is_one_clear_error() -> None:
    with VisionServer(models=("one", "two")) as server:
        with pytest.raises(ConfigError, match="several models: one, two. Name one with --endpoint-model"):
            abilities_of(server)
        with pytest.raises(ConfigError, match="knows no model 'three'"):
            with_engine(describe, server, model="three")


def test_a_refused_key_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with VisionServer(key="right") as server:
        monkeypatch.setenv("MY_KEY", "wrong")
        with pytest.raises(ConfigError, match="refuses the key .* in MY_KEY"):
            with_engine(describe, server, key_env="MY_KEY")
        monkeypatch.setenv("MY_KEY", "right")
        assert with_engine(describe, server, key_env="MY_KEY")
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(ConfigError, match="this environment variable is not set"):
        Client(EndpointSettings("http://127.0.0.1:1/v1", "m", key_env="MY_KEY"))


def test_addresses() -> None:
    assert clean_url("http://host:8000/v1/") == "http://host:8000/v1"
    assert clean_url("https://host/v1/chat/completions") == "https://host/v1"
    with pytest.raises(ConfigError, match="is an address such as"):
        clean_url("ftp://host")


async def describe(engine: EndpointEngine) -> list[Any]:
    settings = ConversationSettings(PACK, make_policy("paper"), (Kind.DETAIL, Kind.CONVERSATION), seed=0)
    return await hold_conversations(engine, "a.jpg", picture(), settings)


def test_a_conversation_takes_two_requests_and_has_every_sentence() -> None:
    with VisionServer() as server:
        detail, short = with_engine(describe, server)
        asked = [body for body in server.bodies if "flowing sentences" in words_of(body)]
    assert detail.answer == sentences_about(picture(), 5)
    assert [step.kept for step in detail.steps] == [f"{one}." for one in detail.answer[:-1].split(". ")]
    assert detail.vig_answer == sentences_about(picture(), 2)
    assert detail.status is Verdict.KEPT
    assert short.question == detail.question
    assert len(asked) == 2  # VIG's and VIC's


def test_an_answer_that_the_token_limit_cuts_is_continued_with_and_without_the_servers_help() -> None:
    async def whole(engine: EndpointEngine) -> str:
        async with engine.image(picture()) as image:
            said = ""
            while True:
                piece = await engine.complete(image, Request("", "Describe.", said, Unit.WHOLE, max_tokens=7))
                said += piece.text
                if piece.stop is not Stop.LENGTH:
                    return said

    def go_on(body: dict[str, Any]) -> str:
        begun = words_of(body).partition("begins like this:\n")[2].partition("\n\n")[0]
        from vision_server import image_of

        return sentences_about(image_of(body), 5)[len(begun) :]

    with VisionServer() as server:
        assert with_engine(whole, server) == sentences_about(picture(), 5)
    with VisionServer(continues=False, answer=go_on) as server:
        found = with_engine(whole, server, phrases=PACK.chat)
        assert not found.startswith(" ")
        assert found.split() == sentences_about(picture(), 5).split()


def test_yes_or_no_by_log_probabilities_or_by_words() -> None:
    thing = sentences_about(picture(), 3).split()[4].strip(".")

    async def beliefs(engine: EndpointEngine) -> list[float]:
        async with engine.image(picture()) as image:
            found = []
            for name in (thing, "giraffe"):
                yes, no = [await engine.score(image, f"Is there a {name}?", word) for word in (" yes", " no")]
                found.append(yes[0].logprob - no[0].logprob)
            return found

    with VisionServer() as server:
        there, absent = with_engine(beliefs, server)
        assert (there, absent) == pytest.approx((2.3, -2.3))
    with VisionServer(logprobs=False) as server:
        there, absent = with_engine(beliefs, server)
        assert there > 4 > -4 > absent


def test_candidates_differ_in_one_request_or_in_several() -> None:
    async def four(engine: EndpointEngine) -> list[str]:
        async with engine.image(picture()) as image:
            request = Request("", "Describe.", until=Unit.SENTENCE, temperature=0.7, seed=5, n=4)
            return [one.text for one in await engine.candidates(image, request)]

    for can in (True, False):
        with VisionServer(candidates=can) as server:
            texts = with_engine(four, server)
            assert len(set(texts)) == 4, texts
            assert sum(body.get("n") == 4 for body in server.bodies) == can


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (400, "This model's maximum context length is 4096 tokens", "too_long"),
        (400, "The response was filtered: content_filter", "refused"),
        (400, "cannot identify image file", "image_unreadable"),
        (422, "bad field", "bad_request"),
    ],
)
def test_what_is_wrong_with_a_request_is_that_requests(status: int, message: str, kind: str) -> None:
    import vision_server

    class Refusing(VisionServer):
        def _complete(self, handler: Any) -> None:
            if self.counts["answered"] < 10:
                super()._complete(handler)
            else:
                handler.rfile.read(int(handler.headers["Content-Length"]))
                vision_server._send(handler, status, {"error": {"message": message}})

    async def one(engine: EndpointEngine) -> None:
        async with engine.image(picture()) as image:
            while True:
                await engine.complete(image, Request("", "Describe."))

    with Refusing() as server, pytest.raises(RequestFailed) as failed:
        with_engine(one, server)
    assert failed.value.kind == kind
    assert message in failed.value.message


def test_a_dead_server_ends_the_run_after_its_patience_and_says_what_to_do() -> None:
    with VisionServer() as server:
        pass
    with pytest.raises(RunError, match="gave no answer for .* run the same command"):
        with_engine(describe, server, patience_s=1)


def test_hours_without_a_question_are_no_outage() -> None:
    async def after_hours(engine: EndpointEngine) -> list[Any]:
        await engine.abilities()
        engine._client.last_answer -= 3600
        server._faults, server._fault_rate = ("500",), 1.0
        asked = asyncio.ensure_future(describe(engine))
        await asyncio.sleep(0.1)
        server._fault_rate = 0.0
        return await asked

    with VisionServer() as server:
        assert all(spoken.answer for spoken in with_engine(after_hours, server, patience_s=5))


def test_no_fault_of_the_server_becomes_an_images() -> None:
    """A third of the answers are broken in some way, and for two seconds there is none at all."""
    num = 60

    async def all_images(engine: EndpointEngine) -> list[Any]:
        settings = ConversationSettings(PACK, make_policy("paper"), (Kind.DETAIL,), seed=0)
        about = (hold_conversations(engine, f"{number}.png", picture(number), settings) for number in range(num))
        return [spoken for (spoken,) in await asyncio.gather(*about)]

    with VisionServer(fault_rate=0.33, outage_at=60, outage_s=2.0) as server:
        # The abilities are asked for on a server that is well; afterwards nothing is.
        spoken = with_engine(all_images, server, timeout_s=1.0)
        counts = server.counts
    assert [one.answer for one in spoken] == [sentences_about(picture(number), 5) for number in range(num)]
    assert counts["outage"]
    assert len(counts) > 10, counts


def test_the_limit_finds_what_a_server_takes() -> None:
    async def many(engine: EndpointEngine) -> int:
        async with engine.image(picture()) as image:
            requests = [Request("", f"Describe {number}.") for number in range(400)]
            await asyncio.gather(*(engine.complete(image, one) for one in requests))
            return engine.concurrency

    with VisionServer(latency_s=0.01, most_at_once=24) as server:
        concurrency = with_engine(many, server)
        assert 4 <= concurrency <= 48
        assert server.counts["full"] < 200  # of more than 600 requests


def test_a_fixed_limit_is_never_passed() -> None:
    async def many(engine: EndpointEngine) -> None:
        async with engine.image(picture()) as image:
            await asyncio.gather(*(engine.complete(image, Request("", f"{n}")) for n in range(50)))

    with VisionServer(latency_s=0.005) as server:
        with_engine(many, server, concurrency=3)
        assert server.most_seen_at_once <= 3


def test_a_cancelled_wait_gives_its_place_back() -> None:
    async def run() -> None:
        limit = ConcurrencyLimit(fixed=1)
        async with limit.place():
            waiting = [asyncio.ensure_future(_take(limit)) for _ in range(3)]
            await asyncio.sleep(0)
            waiting[0].cancel()
        await asyncio.gather(*waiting[1:])
        assert limit.num_taken == 0

    async def _take(limit: ConcurrencyLimit) -> None:
        async with limit.place():
            await asyncio.sleep(0)

    asyncio.run(run())


def test_requests_are_those_that_openais_own_client_sends() -> None:
    """Beside OpenAI's fields there are only those that open servers take for going on with a begun answer."""

    async def everything(engine: EndpointEngine) -> None:
        async with engine.image(picture()) as image:
            await engine.complete(image, Request("", "Describe.", max_tokens=7))
            await engine.complete(image, Request("", "Describe.", " There", max_tokens=7, temperature=0.7))
            await engine.candidates(image, Request("", "Describe.", n=2, temperature=1.0))
            await engine.score(image, "Is there a box?", "yes")

    with VisionServer() as server:
        with_engine(everything, server)
        sent = list(server.bodies)
        client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)
        fields = CompletionCreateParamsNonStreaming.__annotations__
        for body in sent:
            known = {name: value for name, value in body.items() if name in fields}
            others = {name: value for name, value in body.items() if name not in known}
            assert set(others) <= set(CONTINUE)
            with suppress(openai.BadRequestError):  # an image that is only named, which this server does not remember
                client.chat.completions.create(**known, extra_body=others)
    assert server.bodies[len(sent) :] == sent
    assert len(sent) > 12


def test_a_request_that_never_gets_an_answer_which_is_one_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vigc.model.engines.endpoint.client.MAX_WAIT_S", 0.01)

    class Odd(VisionServer):
        def _completion(self, body: dict[str, Any]) -> dict[str, Any]:
            return {"choices": []} if "odd" in words_of(body) else super()._completion(body)

    async def one(engine: EndpointEngine) -> None:
        async with engine.image(picture()) as image:
            assert (await engine.complete(image, Request("", "Describe."))).text
            await engine.complete(image, Request("", "What is odd here?"))

    with Odd() as server, pytest.raises(RequestFailed) as failed:
        with_engine(one, server)
    assert failed.value.kind == "malformed"
    assert sum("odd" in words_of(body) for body in server.bodies) == MAX_MALFORMED
