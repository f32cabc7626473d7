"""A small OpenAI-compatible server on loopback, that can be told to fail."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


def echo(request: dict[str, Any]) -> str:
    content = request["messages"][0]["content"]
    text = content if isinstance(content, str) else content[-1]["text"]
    return f"reply to: {text}"


class ChatServer:
    def __init__(self, reply: Callable[[dict[str, Any]], str] = echo) -> None:
        self.requests: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        self.failures: list[int] = []  # statuses of the next answers
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(body)
                outer.authorizations.append(self.headers["Authorization"])
                status = outer.failures.pop(0) if outer.failures else 200
                message = {"role": "assistant", "content": reply(body)}
                choice = {"index": 0, "finish_reason": "stop", "message": message}
                answer: dict[str, Any] = {"error": {"message": "told to fail"}}
                if status == 200:
                    answer = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> ChatServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
