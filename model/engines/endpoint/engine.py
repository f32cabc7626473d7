"""An engine whose model is behind a server.

VIC asks for an answer sentence by sentence. A decoder that read the image before the text computes the same whether it
is stopped after each sentence or not, so an answer is asked for once, and later steps are served from what was said, as
long as the answer so far is its beginning. Where it is not (a sentence was taken back), or where the token limit cut
the answer, the server goes on with the begun answer if it can, and is else asked to in a new turn.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from vigc.model.completion import Completion, Request, RequestFailed, ScoredToken, seeds_of
from vigc.model.engines.endpoint.abilities import (
    CONTINUE,
    YES_OR_NO,
    find_abilities,
    find_model,
    read_yes_or_no,
)
from vigc.model.engines.endpoint.client import Client
from vigc.model.engines.endpoint.messages import (
    Speech,
    continued,
    image_name,
    image_part,
    log_odds,
    named_image,
    speech_of,
    usage_of,
    user_turn,
)
from vigc.model.engines.endpoint.server import Server
from vigc.model.engines.interface import Blank, Engine, EngineLost
from vigc.model.engines.settings import MAX_CONCURRENCY, Abilities, EndpointSettings
from vigc.model.sentences import Unit
from vigc.platform.records import ConfigError, ImageForm, ModelError, Stop, TokenUsage

ANSWER_TOKENS = 1024  # of an answer that is asked for whole and handed out sentence by sentence
WATCH_S = 1.0  # between looks at a server of our own
SURE = 4.6  # log-odds of 99 to 1: what a word counts from a server without log-probabilities
_SEEDS = 2**31 - 1  # servers refuse larger ones


@dataclass(eq=False)
class EndpointImage:
    """An image that is spoken about, and what was said of it."""

    part: dict[str, Any]  # of a request
    name: str | None  # that the server remembers it by; None: it remembers none
    is_sent: bool = False
    answers: list[tuple[Request, Speech]] = field(default_factory=list)
    beliefs: dict[str, asyncio.Task[float]] = field(default_factory=dict)  # log-odds by prompt
    usage: TokenUsage = field(default_factory=TokenUsage)  # of all requests about it

    def charge(self, answer: dict[str, Any]) -> TokenUsage:
        """Counts what an answer took."""
        usage = usage_of(answer)
        self.usage += usage
        return usage


class EndpointEngine(Engine):
    """See the module. It lives on the event loop that uses it.

    Args:
        server: of our own, which is started again when it dies and ends with the engine.
        num_slots: conversations under way at most; None: as many as the limit of requests may come to.
    """

    def __init__(
        self,
        settings: EndpointSettings,
        num_slots: int | None = None,
        server: Server | None = None,
    ) -> None:
        super().__init__(num_slots=num_slots or settings.concurrency or MAX_CONCURRENCY)
        self.image_form = ImageForm(max_pixels=settings.max_pixels)
        self._settings = settings
        self._server = server
        self._client = Client(settings, key=server.key if server is not None else None)
        self._watching: asyncio.Task[None] | None = None
        self._found: asyncio.Task[Abilities] | None = None
        self._abilities = settings.abilities
        self._model = settings.model
        self._is_closed = False
        self._num_images = itertools.count()
        self._room = asyncio.Semaphore(2 * self.num_slots)

    @property
    def is_alive(self) -> bool:
        return not self._is_closed

    @property
    def num_in_use(self) -> int:
        return self._client.limit.num_taken

    @property
    def num_waiting(self) -> int:
        return self._client.limit.num_waiting

    @property
    def concurrency(self) -> int:
        """Requests that may be under way now."""
        return self._client.limit.limit

    async def abilities(self) -> Abilities:
        """Found out once. Raises as `find_model` and `find_abilities`."""
        if self._abilities is None or not self._model:
            if self._found is None:
                self._found = asyncio.ensure_future(self._find())
            self._abilities = await asyncio.shield(self._found)
        return self._abilities

    async def _find(self) -> Abilities:
        self._model, about = await find_model(self._client, self._settings)
        return self._abilities or await find_abilities(self._client, self._model, about, self._settings)

    @asynccontextmanager
    async def image(self, data: bytes) -> AsyncIterator[EndpointImage]:
        async with self._room:
            if self._server is not None and self._watching is None:
                self._watching = asyncio.ensure_future(self._watch(self._server))
            name = image_name(data) if (await self.abilities()).remembers_images else None
            handle = EndpointImage(image_part(data, name), name)
            try:
                yield handle
            finally:
                for task in handle.beliefs.values():
                    task.cancel()

    async def candidates(self, image: Any, request: Request) -> list[Completion]:
        self.check(request)
        handle = seen(image)
        self._num_under_way += request.n
        try:
            if request.n == 1:
                return [await self._complete(handle, request)]
            if (await self.abilities()).candidates:
                return await self._several(handle, request)
            single = [replace(request, n=1, seed=seed) for seed in seeds_of(request)]
            return list(await asyncio.gather(*(self._complete(handle, one) for one in single)))
        finally:
            self._num_under_way -= request.n

    async def score(self, image: Any, prompt: str, text: str, *, qformer_text: str | None = None) -> list[ScoredToken]:
        """Of a one-word answer to a yes-or-no question only: half of the log-odds, with the sign that the word has in
        them, so that the difference of both words is the log-odds.
        """
        handle = seen(image)
        word = text.strip().lower()
        if word not in ("yes", "no"):
            raise ConfigError(
                "An endpoint gives no likelihoods of given texts. Measure grounding with --grounding asked."
            )
        if prompt not in handle.beliefs:
            handle.beliefs[prompt] = asyncio.ensure_future(self._belief(handle, prompt))
        odds = await asyncio.shield(handle.beliefs[prompt])
        return [ScoredToken(len(text), odds / 2 if word == "yes" else -odds / 2)]

    def usage(self, image: Any) -> TokenUsage | None:
        return seen(image).usage

    def check(self, request: Request) -> None:
        super().check(request)
        if request.num_beams > 1:
            raise ConfigError("An endpoint decodes without beams. Add --set num_beams=1.")
        if request.repetition_penalty != 1.0 or request.length_penalty != 1.0:
            raise ConfigError("An endpoint takes no repetition or length penalty. Set both to 1.")

    def close(self) -> None:
        self._is_closed = True
        if self._server is not None:
            self._server.close()

    async def aclose(self) -> None:
        """Ends its connections, too; to be called on the loop that used it."""
        if self._watching is not None:
            self._watching.cancel()
        self.close()
        await self._client.close()

    async def _watch(self, server: Server) -> None:
        """Starts the server again when it has died: meanwhile what was asked of it is asked again."""
        while True:
            await asyncio.sleep(WATCH_S)
            try:
                began = time.monotonic()
                if await asyncio.to_thread(server.keep):
                    print("The model's server had died and was started again.", file=sys.stderr, flush=True)  # noqa: T201
                elif self._client.last_answer > began - 2 * WATCH_S:
                    server.answered()
            except ModelError as error:
                self._client.lost = EngineLost(str(error))
                return

    async def _complete(self, image: EndpointImage, request: Request) -> Completion:
        if (known := _said_already(image, request)) is not None:
            return known
        speech, usage = await self._ask(image, request)
        image.answers.append((request, speech))
        return _completion(request, speech, usage)

    async def _ask(self, image: EndpointImage, request: Request) -> tuple[Speech, TokenUsage]:
        """One request. The speech's text follows the request's prefix without a seam."""
        abilities = await self.abilities()
        body = self._body(request, abilities)
        phrases, prefix = self._settings.phrases, request.prefix.rstrip()
        prompt = request.prompt if not prefix or abilities.continues else phrases.continuing(request.prompt, prefix)
        answer = await self._post(
            image, phrases.avoiding(prompt, request.suppress), body, begun=prefix if abilities.continues else ""
        )
        speech = _checked(speech_of(answer))
        if prefix:
            text = speech.text.removeprefix(prefix)  # some servers repeat what was begun
            blank = "" if text[:1].isspace() or request.prefix != prefix or not text else " "
            speech = replace(speech, text=blank + (text.lstrip() if request.prefix != prefix else text))
        return speech, image.charge(answer)

    async def _several(self, image: EndpointImage, request: Request) -> list[Completion]:
        """Candidates of one unit, in one request where nothing is begun."""
        abilities = await self.abilities()
        if request.prefix and not abilities.continues:
            single = [replace(request, n=1, seed=seed) for seed in seeds_of(request)]
            found = await asyncio.gather(*(self._ask(image, one) for one in single))
            return [_completion(request, *one) for one in found]
        body = self._body(request, abilities) | {"n": request.n}
        prompt = self._settings.phrases.avoiding(request.prompt, request.suppress)
        answer = await self._post(image, prompt, body, begun=request.prefix.rstrip())
        usage = image.charge(answer)
        speeches = [_checked(speech_of(answer, index)) for index in range(len(answer["choices"]))]
        shares = [usage] + [TokenUsage()] * (len(speeches) - 1)
        return [_completion(request, *pair) for pair in zip(speeches, shares, strict=True)]

    async def _post(self, image: EndpointImage, prompt: str, body: dict[str, Any], begun: str = "") -> dict[str, Any]:
        """One question about an image, which is sent once and named from then on, where the server remembers images.

        Args:
            body: of the request, all but the messages.
            begun: of the answer.
        """
        abilities = await self.abilities()
        body = body | (CONTINUE if begun else {}) | ({"add_special_tokens": True} if abilities.adds_start_mark else {})

        def about(part: dict[str, Any]) -> dict[str, Any]:
            turns = [user_turn(prompt, [part])]
            return body | {"messages": continued(turns, begun) if begun else turns}

        if image.is_sent and image.name is not None:
            # It fails where the image was dropped meanwhile, or where another server has this address: then anew.
            with suppress(RequestFailed):
                return await self._client.ask(about(named_image(image.name)))
        answer = await self._client.ask(about(image.part))
        image.is_sent = True
        return answer

    def _body(self, request: Request, abilities: Abilities) -> dict[str, Any]:
        # An answer that is handed out unit by unit is asked for whole.
        whole = ANSWER_TOKENS if abilities.context_length is None else min(ANSWER_TOKENS, abilities.context_length // 2)
        longest = request.max_tokens if request.until is Unit.WHOLE else max(request.max_tokens, whole)
        body: dict[str, Any] = {"model": self._model, "max_tokens": longest, "temperature": request.temperature}
        if request.temperature > 0:
            body |= {"top_p": request.top_p, "seed": request.seed % _SEEDS, **self._settings.sampling}
        if abilities.logprobs:
            body["logprobs"] = True
        return body

    async def _belief(self, image: EndpointImage, prompt: str) -> float:
        """log p(yes) - log p(no), or what the word counts where the server gives no log-probabilities."""
        abilities = await self.abilities()
        body: dict[str, Any] = {
            "model": self._model,
            "max_tokens": 1 if abilities.logprobs else 16,
            "temperature": 0,
        }
        if abilities.logprobs:
            body |= {"logprobs": True, "top_logprobs": 20}
        elif abilities.schema:
            body["response_format"] = YES_OR_NO
        found = await self._post(image, prompt, body)
        image.charge(found)
        speech = speech_of(found)
        odds = log_odds(speech, "yes", "no")
        if odds is not None:
            return odds
        if (answer := read_yes_or_no(speech.text)) is not None:
            return SURE if answer else -SURE
        said = speech.text.strip().lower()
        if said.startswith(("yes", "no")):
            return SURE if said.startswith("yes") else -SURE
        return 0.0  # neither yes nor no: it neither stands by the object nor denies it


def seen(image: Any) -> EndpointImage:
    """Raises ConfigError: the image without an image."""
    if isinstance(image, Blank):
        raise ConfigError("An endpoint has no blank image. Measure grounding with --grounding asked.")
    assert isinstance(image, EndpointImage)
    return image


def _said_already(image: EndpointImage, request: Request) -> Completion | None:
    """The rest of an answer that begins with the prefix, where the same was asked."""
    if not request.prefix:
        return None
    for asked, speech in image.answers:
        same = (asked.prompt, asked.suppress) == (request.prompt, request.suppress)
        whole = asked.prefix + speech.text
        if same and len(whole) > len(request.prefix) and whole.startswith(request.prefix):
            rest = replace(speech, text=whole[len(request.prefix) :], tokens=[])
            return _completion(request, rest, TokenUsage())
    return None


def _completion(request: Request, speech: Speech, usage: TokenUsage) -> Completion:
    text, stop = speech.text, Stop.LENGTH if speech.finish == "length" else Stop.END
    if request.stop_at and request.stop_at in text:
        text, stop = text[: text.index(request.stop_at) + len(request.stop_at)], Stop.MARK
    values = [value for _, value in speech.tokens]
    mean = sum(values) / len(values) if values else None
    return Completion(text, stop, usage.num_completion, mean)


def _checked(speech: Speech) -> Speech:
    """Raises RequestFailed: the model or its server declines to answer."""
    if speech.refusal or speech.finish == "content_filter":
        raise RequestFailed("refused", speech.refusal or "a content filter ended the answer")
    return speech
