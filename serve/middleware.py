"""ASGI middleware for every request: id, API key, size limit, timeout, error format, access log.

It wraps the whole application, so that nothing answers without it. Bodies are counted while they arrive, and slow ones
are given up. Errors have OpenAI's format and never a traceback. Each request leaves one line in the log.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vigc.serve.errors import DENIED, ApiError, internal, overloaded, too_large, too_slow, unavailable
from vigc.serve.metrics import Metrics
from vigc.serve.settings import KEYS_VARIABLE

log = logging.getLogger("ray.serve")
SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    # Scripts and styles from here alone; images also from the visitor's disk, camera and pasted addresses.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data: https:; media-src 'self' "
        "blob:; connect-src 'self'; font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
}
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


class ApiKeys:
    """Bearer keys. Without any, every client may use the service.

    Args:
        listed: the value of VIGC_API_KEYS, keys with commas between them.
    """

    def __init__(self, listed: str) -> None:
        self._digests = [_digest(key.strip().encode()) for key in listed.split(",") if key.strip()]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def check(self, authorization: str) -> None:
        """
        Raises:
            ApiError: none of the keys.
        """
        scheme, _, key = authorization.partition(" ")
        given = _digest(key.strip().encode("utf-8", "surrogateescape"))
        # All keys are compared, and all digests have one length, so that the time taken tells nothing about the keys.
        is_known = sum(hmac.compare_digest(given, known) for known in self._digests)
        if scheme.lower() != "bearer" or not is_known:
            raise ApiError(
                401,
                "A key is needed: Authorization: Bearer KEY." if not key else "The key is not known here.",
                type_=DENIED,
                code="invalid_api_key",
            )


class AllowedHosts:
    """Host names by which the service may be called, where only its address keeps strangers out.

    A page on the web can make a visitor's browser call the visitor's own machine: by DNS rebinding, which the Host
    header shows, or by sending a form, which the Origin header shows.

    Args:
        hosts: without ports; an empty list allows every name.
        origins: of pages elsewhere that may call the service nevertheless.
    """

    def __init__(self, hosts: Sequence[str], origins: Sequence[str] = ()) -> None:
        self._hosts, self._origins = frozenset(hosts), frozenset(origins)

    def check(self, headers: Headers) -> None:
        """
        Raises:
            ApiError: the request was made for another host, or by a page of another.
        """
        if not self._hosts:
            return
        if (host := _host_of(f"//{headers.get('host', '')}")) not in self._hosts:
            message = f"Without keys in {KEYS_VARIABLE} this service does not answer to the host {host!r}."
            raise ApiError(421, message, type_=DENIED, code="wrong_host")
        origin = headers.get("origin")
        if origin and origin not in self._origins and _host_of(origin) not in self._hosts:
            raise ApiError(403, f"Pages of {origin!r} may not call this service.", type_=DENIED, code="wrong_origin")


def _host_of(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


class RequestMiddleware:
    """See the module.

    Args:
        is_stopping: whether new requests are refused.
        max_body_bytes: for a media type.
        is_protected: whether a path needs a key.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: ApiKeys,
        hosts: AllowedHosts,
        metrics: Metrics,
        is_stopping: Callable[[], bool],
        max_body_bytes: Callable[[str], int],
        body_timeout_s: float,
        max_held_bytes: int,
        is_protected: Callable[[str], bool],
    ) -> None:
        self._app = app
        self._keys, self._hosts, self._metrics = keys, hosts, metrics
        self._is_stopping = is_stopping
        self._max_body_bytes, self._body_timeout_s = max_body_bytes, body_timeout_s
        self._is_protected = is_protected
        self._held = BodyMemory(max_held_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request = _AccessLog(_id_of(headers), scope)
        scope.setdefault("state", {})["request_id"] = request.id
        with self._metrics.open():
            try:
                await self._answer(request, headers, scope, receive, send)
            finally:
                self._metrics.closed(request.route, request.status)
                request.log()

    async def _answer(self, request: _AccessLog, headers: Headers, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                request.status = message["status"]
                out = MutableHeaders(scope=message)
                out.setdefault("X-Request-ID", request.id)
                for name, value in SECURITY.items():
                    out.setdefault(name, value)
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                request.is_answered = True

        try:
            if self._is_stopping():
                raise unavailable("The service is stopping.")
            self._hosts.check(headers)
            if self._keys and self._is_protected(scope["path"]) and scope["method"] != "OPTIONS":
                self._keys.check(headers.get("authorization", ""))
            limit = self._max_body_bytes(media_type(headers))
            length = headers.get("content-length", "")
            if length.isdecimal() and int(length) > limit:
                raise too_large(f"The body has {length} bytes; at most {limit} are taken.")
            with self._held.of_one() as hold:
                await self._app(scope, _bounded(receive, limit, self._body_timeout_s, hold), sending)
        except ApiError as error:
            request.outcome = error.body.code
            await self._refuse(error, request, scope, receive, sending)
        except Exception as error:
            log.exception("A fault while answering: %s", error)
            await self._refuse(internal(), request, scope, receive, sending)

    async def _refuse(self, error: ApiError, request: _AccessLog, scope: Scope, receive: Receive, send: Send) -> None:
        if not request.status:  # an answer that has begun is ended by the code that began it
            await error.response()(scope, receive, send)


def media_type(headers: Headers) -> str:
    """Of a body, without parameters."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


class _AccessLog:
    """One line of the log."""

    def __init__(self, id_: str, scope: Scope) -> None:
        self.id, self.status = id_, 0
        self.is_answered = False  # to the end; else its client left
        self.outcome: str | None = None
        self._scope, self._began = scope, time.monotonic()

    @property
    def route(self) -> str:
        """The route's pattern. A path could be anything, and would be a label of its own."""
        route = self._scope.get("route")
        return str(getattr(route, "path", "other"))

    def log(self) -> None:
        fields: dict[str, Any] = {
            "vigc_request_id": self.id,
            "method": self._scope["method"],
            "status": self.status or 499,
            "seconds": round(time.monotonic() - self._began, 4),
            "outcome": self.outcome or ("answered" if self.is_answered else "left by its client"),
            **self._scope["state"].get("log", {}),
        }
        log.info("%s %s %s", fields["method"], self.route, fields["status"], extra=fields)


def _id_of(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class BodyMemory:
    """Limits the bytes of bodies that all requests together hold until they are answered."""

    def __init__(self, most: int) -> None:
        self._most, self._now = most, 0

    @contextmanager
    def of_one(self) -> Iterator[Callable[[int], None]]:
        """Yields a function that one request calls with the size of each piece of its body.

        It raises ApiError where the limit is exceeded.
        """
        mine = 0

        def hold(num_bytes: int) -> None:
            nonlocal mine
            if self._now + num_bytes > self._most:
                raise overloaded()
            mine += num_bytes
            self._now += num_bytes

        try:
            yield hold
        finally:
            self._now -= mine


def _bounded(receive: Receive, max_bytes: int, timeout_s: float, hold: Callable[[int], None]) -> Receive:
    """Receives a body of at most so many bytes within so many seconds from now. Later messages have no timeout."""
    give_up = time.monotonic() + timeout_s
    num_bytes, is_whole = 0, False

    async def bounded() -> Message:
        nonlocal num_bytes, is_whole
        if is_whole:
            return await receive()
        try:
            async with asyncio.timeout(max(0.0, give_up - time.monotonic())):
                message = await receive()
        except TimeoutError as error:
            raise too_slow(f"The body did not arrive within {timeout_s:g} s.") from error
        hold(len(message.get("body", b"")))
        num_bytes += len(message.get("body", b""))
        if num_bytes > max_bytes:
            raise too_large(f"The body has more than {max_bytes} bytes.")
        is_whole = not message.get("more_body", False)
        return message

    return bounded


def protects(prefixes: Sequence[str]) -> Callable[[str], bool]:
    """A function that tells whether a path lies below one of these."""
    return lambda path: any(path == prefix or path.startswith(prefix + "/") for prefix in prefixes)
