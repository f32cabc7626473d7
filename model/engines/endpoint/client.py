"""One server that speaks OpenAI's chat completions, asked patiently.

What is the server's fault (no connection, an answer that breaks off, a status from 500 on, too many requests) is tried
again for as long as the patience lasts, and no image is blamed for it: then the run ends with a RunError and goes on
with the same command. What is wrong with one request (too long, refused by a content filter, an image that the server
cannot read) is a `RequestFailed`, with what the server said. What is wrong with the settings (no such model, a key that
is refused) is a ConfigError. Retry-After is obeyed.

There is no client library here: servers break the protocol in ways that such a library turns into exceptions of its own
(HTML, half a JSON, an error under status 200), and bytes have to be counted while they come.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from vigc.model.completion import RequestFailed
from vigc.model.engines.endpoint.address import read_key
from vigc.model.engines.endpoint.limit import ConcurrencyLimit
from vigc.model.engines.settings import EndpointSettings
from vigc.platform.records import ConfigError, RunError

if TYPE_CHECKING:
    import aiohttp

MAX_ANSWER_BYTES = 8 * 2**20  # with log-probabilities a long answer takes some hundred kilobytes
CHARACTERS_A_TOKEN = 20  # at most
MAX_MALFORMED = 10  # answers to one request that are no answers, after which the request is to blame
MAX_ERRORS = 10  # the same for statuses from 500 on, where others are answered meanwhile
FIRST_WAIT_S, MAX_WAIT_S = 0.25, 30.0
PASSING = frozenset({408, 409, 425, 429})  # and all from 500 on
OVERLOADED = frozenset({429, 503})

_TOO_LONG = ("context length", "context_length", "maximum context", "too long", "max_model_len", "exceeds the")
_REFUSED = ("content_filter", "content filter", "content policy", "content_policy", "safety", "responsible ai")
_IMAGE = ("image",)


class Malformed(Exception):
    """An answer that is no answer."""


class ServerRefuses(ConfigError):
    """The server does not take the key, the model or the address. `said` is what it said."""

    def __init__(self, message: str, said: str) -> None:
        super().__init__(message)
        self.said = said


class ServerSilent(RunError):
    """The server gave no answer for as long as the patience lasts. `said` is what it did instead."""

    def __init__(self, message: str, said: str) -> None:
        super().__init__(message)
        self.said = said


@dataclass(frozen=True, slots=True)
class _Fault:
    """Why a request is to be sent again."""

    reason: str
    wait_s: float | None = None  # as the server asked
    is_overload: bool = False
    is_malformed: bool = False
    has_status: bool = False


class Client:
    """For one event loop; any number of coroutines may ask at once.

    Args:
        key: what the server wants to see; None: what the settings' variable holds.
        on_note: called with a line for the user when the server goes away and when it is back.
    """

    def __init__(
        self, settings: EndpointSettings, key: str | None = None, on_note: Callable[[str], None] | None = None
    ) -> None:
        """Raises ConfigError: the key's variable is not set."""
        self._settings = settings
        self._key = key or settings.key or read_key(settings.key_env)
        self.lost: Exception | None = None  # raised by every request from then on
        self._note = on_note or (lambda line: print(line, file=sys.stderr, flush=True))  # noqa: T201
        self._session: aiohttp.ClientSession | None = None
        self.limit = ConcurrencyLimit(settings.concurrency)
        self._down_since: float | None = None
        self.last_answer = time.monotonic()

    async def get(self, path: str) -> dict[str, Any]:
        """What the server has at a path, as JSON. Raises as `ask`; a status from 500 on is a RequestFailed here, since
        some servers answer so for what they do not have.
        """
        return await self._patiently("GET", path, None, MAX_ANSWER_BYTES, is_trial=False)

    async def ask(self, body: dict[str, Any], *, is_trial: bool = False) -> dict[str, Any]:
        """A chat completion, as JSON, with at least one choice.

        Args:
            is_trial: whether the server knows such requests is to be found out, so that any fault of it says no.
        Raises:
            RequestFailed: this request cannot be answered, and could not if it were sent again.
            ServerRefuses: no such model, no such key, no such place.
            ServerSilent: the server did not answer for as long as the patience lasts.
        """
        data = json.dumps(body, separators=(",", ":")).encode()
        most = CHARACTERS_A_TOKEN * max(body.get("max_tokens", 0), 50)
        return await self._patiently("POST", "/chat/completions", data, most, is_trial)

    async def tokenize(self, body: dict[str, Any]) -> list[int] | None:
        """The tokens of a chat, as vLLM says them; None: the server does not."""
        data = json.dumps(body, separators=(",", ":")).encode()
        try:
            found = await self._patiently("POST", "/tokenize", data, MAX_ANSWER_BYTES, is_trial=True)
        except (ConfigError, RequestFailed):
            return None
        tokens = found.get("tokens")
        return tokens if isinstance(tokens, list) else None

    async def _patiently(self, method: str, path: str, data: bytes | None, most: int, is_trial: bool) -> dict[str, Any]:
        num_malformed, num_errors, wait_s, asked = 0, 0, FIRST_WAIT_S, time.monotonic()
        while True:
            async with self.limit.place():
                if self.lost is not None:
                    raise self.lost
                began = time.monotonic()
                found = await self._once(method, path, data, most)
                if not isinstance(found, _Fault):
                    self.limit.answered(time.monotonic() - began)
                    self._is_back()
                    return found
                if found.is_overload:
                    self.limit.overloaded()
            if (is_trial or (method == "GET" and found.has_status)) and not found.is_overload:
                raise RequestFailed("bad_request", found.reason)
            # One that the server fails at again and again, while it answers others, is at fault itself.
            num_errors += found.has_status and not found.is_overload and self.last_answer > asked
            if num_errors >= MAX_ERRORS:
                raise RequestFailed("server_error", found.reason)
            num_malformed += found.is_malformed
            if num_malformed >= MAX_MALFORMED and self._down_since is None:
                raise RequestFailed("malformed", found.reason)
            self._check_patience(found, asked)
            pause = found.wait_s if found.wait_s is not None else wait_s * random.uniform(0.5, 1.5)
            wait_s = min(2 * wait_s, MAX_WAIT_S)
            await asyncio.sleep(min(pause, self._settings.patience_s))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _check_patience(self, fault: _Fault, asked: float) -> None:
        """Waits are counted from the last answer that any request had, so a slow queue is no outage; and at most from
        when this was asked, so that hours without a question are none.
        """
        now = time.monotonic()
        silent_s = now - max(self.last_answer, asked)
        if self._down_since is None and not fault.is_malformed and silent_s > 5:
            self._down_since = now
            self._note(
                f"{self._settings.url} gives no answer ({fault.reason}); the run waits for it, at most "
                f"{self._settings.patience_s / 60:.0f} minutes."
            )
        if silent_s > self._settings.patience_s:
            raise ServerSilent(
                f"{self._settings.url} gave no answer for {silent_s:.0f} s ({fault.reason}). What is made "
                "is kept; start the server again and run the same command (--patience waits longer).",
                fault.reason,
            )

    def _is_back(self) -> None:
        self.last_answer = time.monotonic()
        if self._down_since is not None:
            away_s, self._down_since = self.last_answer - self._down_since, None
            self._note(f"{self._settings.url} answers again after {away_s:.0f} s.")

    async def _once(self, method: str, path: str, data: bytes | None, most: int) -> dict[str, Any] | _Fault:
        import aiohttp

        session = self._open()
        try:
            async with session.request(method, self._address(path), data=data) as response:
                text = await _read(response)
                if response.status >= 400:
                    return self._refused(response.status, text, response.headers)
                return self._answer(text, path, most)
        except Malformed as fault:
            return _Fault(str(fault), is_malformed=True)
        except aiohttp.ClientPayloadError as error:
            return _Fault(f"its answer broke off: {error}")
        except (aiohttp.ClientConnectorCertificateError, aiohttp.InvalidURL) as error:
            raise ServerRefuses(
                f"{self._settings.url}: {error}. Check the address given with --model.", type(error).__name__
            ) from error
        except TimeoutError:
            return _Fault(f"no answer within {self._settings.timeout_s:.0f} s", is_overload=True)
        except (aiohttp.ClientError, OSError) as error:
            return _Fault(str(error) or type(error).__name__)

    def _address(self, path: str) -> str:
        # vLLM has it beside the protocol's own paths.
        url = self._settings.url
        return url.removesuffix("/v1") + path if path == "/tokenize" else url + path

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            import aiohttp

            from vigc import __version__

            headers = {"Content-Type": "application/json", "User-Agent": f"vigc/{__version__}"}
            if self._key is not None:
                headers["Authorization"] = f"Bearer {self._key}"
            self._session = aiohttp.ClientSession(
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=self._settings.timeout_s, sock_connect=30),
                connector=aiohttp.TCPConnector(limit=0),
                trust_env=True,
            )
        return self._session

    def _answer(self, text: str, path: str, most: int) -> dict[str, Any]:
        try:
            found = json.loads(text)
        except ValueError as error:
            raise Malformed(f"an answer that is no JSON: {_excerpt(text)}") from error
        if not isinstance(found, dict):
            raise Malformed(f"an answer that is no JSON object: {_excerpt(text)}")
        if fault := found.get("error"):  # under status 200
            code = fault.get("code") if isinstance(fault, dict) else None
            status = int(code) if isinstance(code, int | str) and str(code).isdigit() else 500
            refused = self._refused(status if status >= 400 else 500, text, {})
            raise Malformed(f"an error under status 200: {refused.reason}")
        if path == "/chat/completions":
            check_choices(found, text, most)
        return found

    def _refused(self, status: int, text: str, headers: Any) -> _Fault:
        """What a status from 400 on means: a fault that passes, or the exception that it raises."""
        said = message_of(text)
        if status in PASSING or status >= 500:
            return _Fault(f"status {status}: {said}", _retry_after(headers), status in OVERLOADED, has_status=True)
        told = f"status {status}: {said}"
        if status in (401, 403):
            where = f"in {self._settings.key_env}" if self._key is not None else "with --api-key-env"
            raise ServerRefuses(
                f"{self._settings.url} refuses the key ({status}: {said}). Put the right one {where}.", told
            )
        if status == 404:
            raise ServerRefuses(
                f"{self._settings.url} knows no model {self._settings.model!r}, or is no such endpoint (404: {said}). "
                "Check --model and --endpoint-model.",
                told,
            )
        if status == 402:
            raise ServerRefuses(f"{self._settings.url} wants to be paid first (402: {said}).", told)
        raise RequestFailed(kind_of(status, said), f"status {status}: {said}")


async def _read(response: aiohttp.ClientResponse) -> str:
    """Raises Malformed: more bytes than any answer has."""
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            response.close()
            raise Malformed(f"an answer of more than {MAX_ANSWER_BYTES // 2**20} MiB")
        parts.append(part)
    return b"".join(parts).decode("utf-8", "replace")


def check_choices(found: dict[str, Any], text: str, most: int) -> None:
    """Raises Malformed: there is no choice with a message, or one of more characters than were asked for."""
    choices = found.get("choices")
    if not isinstance(choices, list) or not choices:
        raise Malformed(f"an answer without choices: {_excerpt(text)}")
    for choice in choices:
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(message, dict) or not isinstance(message.get("content"), str | None):
            raise Malformed(f"a choice without a message: {_excerpt(text)}")
        if len(message.get("content") or "") > most:
            raise Malformed(f"an answer of {len(message['content'])} characters, far more than was asked for")


def kind_of(status: int, said: str) -> str:
    """A short name for what is wrong with a request."""
    lower = said.lower()
    if any(mark in lower for mark in _REFUSED):
        return "refused"
    if status == 413 or any(mark in lower for mark in _TOO_LONG):
        return "too_long"
    return "image_unreadable" if any(mark in lower for mark in _IMAGE) else "bad_request"


def message_of(text: str) -> str:
    """What an error's body says, in at most 300 characters."""
    try:
        found = json.loads(text)
    except ValueError:
        return _excerpt(text)
    for name in ("error", "message", "detail"):
        inner = found.get(name) if isinstance(found, dict) else None
        if inner:
            found = inner
    return _excerpt(found if isinstance(found, str) else json.dumps(found, ensure_ascii=False))


def _excerpt(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 300 else f"{flat[:300]}…"


def _retry_after(headers: Any) -> float | None:
    """Seconds, from Retry-After (a number or a date) or the reset of a rate limit."""
    said = headers.get("Retry-After") or headers.get("x-ratelimit-reset-requests") or ""
    said = said.strip().removesuffix("s")
    for read in (float, lambda date: parsedate_to_datetime(date).timestamp() - time.time()):
        with suppress(ValueError, TypeError):
            return max(0.0, read(said))
    return None
