"""A real HTTP proxy on loopback, in front of a real server, that fails the first requests it is told to fail."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
Fault = Callable[["_Handler"], None]


def slow_down(handler: _Handler) -> None:
    handler.answer(503, SLOW_DOWN)


def bad_gateway(handler: _Handler) -> None:
    """What a load balancer says, which speaks no XML."""
    handler.answer(502, b"<html><body>Bad Gateway</body></html>")


def garbled(handler: _Handler) -> None:
    """A success in a language that is not S3's."""
    handler.answer(200, b"<html><body>Please log in.</html>")


def reset(handler: _Handler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def silent(handler: _Handler) -> None:
    """Never answers; the client has to lose its patience."""
    handler.server.ended.wait()
    handler.close_connection = True


def lost_answer(handler: _Handler) -> None:
    """The server does what it is asked, but its answer gets lost."""
    handler.forwarded()
    reset(handler)


def torn_answer(handler: _Handler) -> None:
    """The answer breaks off half-way; where it is short, before it begins."""
    status, headers, body = handler.forwarded()
    if body:
        handler.respond(status, headers, body[: len(body) // 2])
    reset(handler)


def partly(code: str) -> Fault:
    """A success that says of one file that it was not deleted."""

    def fault(handler: _Handler) -> None:
        error = f"<Error><Key>x</Key><Code>{code}</Code><Message>Not now.</Message></Error>"
        handler.answer(200, f"<DeleteResult>{error}</DeleteResult>".encode())

    return fault


def elsewhere(handler: _Handler) -> None:
    """No fault: the answer tells the bucket's region."""
    status, headers, body = handler.forwarded()
    handler.respond(status, [*headers, ("x-amz-bucket-region", "eu-west-1")], body)


class FaultyProxy:
    """Forwards to `port`. `fail` arms it; `requests` holds what came since then."""

    def __init__(self, port: int) -> None:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.target = port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def requests(self) -> list[tuple[float, str, bool]]:
        """(time, method and path, whether it was failed)."""
        return self._server.requests

    def fail(self, fault: Fault, times: int, method: str = "") -> None:
        """Fails the next `times` requests, of this method where one is given."""
        with self._server.lock:
            self._server.requests.clear()
            self._server.armed = (fault, times, method)

    def close(self) -> None:
        self._server.ended.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.target = 0
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.requests: list[tuple[float, str, bool]] = []
        self.armed: tuple[Fault, int, str] = (slow_down, 0, "")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up in the middle is nothing to print about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def handle_any(self) -> None:
        chunked = self.headers.get("Transfer-Encoding", "") == "chunked"
        self.body = self._chunks() if chunked else self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.lock:
            fault, times, method = self.server.armed
            failed = times > 0 and method in ("", self.command)
            if failed:
                self.server.armed = (fault, times - 1, method)
            self.server.requests.append((time.monotonic(), f"{self.command} {self.path}", failed))
        if failed:
            fault(self)
        else:
            self.respond(*self.forwarded())

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815

    def forwarded(self) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.target, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():  # as they are, for they are signed
                if name.lower() not in ("expect", "connection"):
                    connection.putheader(name, value)
            connection.endheaders(self.body)
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        except OSError:
            return 503, [], SLOW_DOWN
        finally:
            connection.close()

    def _chunks(self) -> bytes:
        """A body in chunks, as it came: with the lengths between them."""
        body = b""
        while True:
            head = self.rfile.readline()
            size = int(head.split(b";")[0], 16)
            body += head + self.rfile.read(size) + self.rfile.readline()
            if size == 0:
                return body

    def answer(self, status: int, body: bytes) -> None:
        self.respond(status, [("Content-Length", str(len(body)))], body)

    def respond(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        names = {name.lower() for name, _ in headers}
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        if "content-length" not in names and status not in (204, 304):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass
