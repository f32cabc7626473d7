"""A server on loopback that speaks chat completions about images, well or badly, as a test wants it.

Its "model" is a function of the request's words and image, so that a test knows every answer. Faults are drawn for each
request: statuses with and without Retry-After, resets in mid-answer, half a JSON, HTML, an error under status 200, an
answer without choices, one without end, one that drips, and a whole minute without any answer.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import re
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from PIL import Image

FAULTS = (
    "429 with Retry-After",
    "429",
    "500",
    "503",
    "reset",
    "half a JSON",
    "HTML",
    "an error under 200",
    "no choices",
    "wrong choices",
    "a million characters",
    "drip",
)
WORDS = ("red", "green", "blue", "round", "small", "large", "bright", "dark", "striped", "plain")
THINGS = ("ball", "box", "tree", "house", "cat", "lamp", "boat", "chair")
NUM_TOKENS_OF_AN_IMAGE = 100


def image_of(body: dict[str, Any]) -> bytes:
    """The image of a request, decoded once, as a server does."""
    for part in body["messages"][0]["content"]:
        if part["type"] == "image_url":
            data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
            Image.open(io.BytesIO(data)).load()
            return data
    return b""


def words_of(body: dict[str, Any]) -> str:
    content = body["messages"][0]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def sentences_about(image: bytes, num: int, seed: object = 0) -> str:
    rng = random.Random(hashlib.sha256(image + str(seed).encode()).digest())
    return " ".join(f"There is a {rng.choice(WORDS)} {rng.choice(THINGS)}." for _ in range(num))


def say(body: dict[str, Any]) -> str:
    """What the model says: VIG's two lines, yes or no, or an answer of five sentences."""
    text, image = words_of(body), image_of(body)
    seed = body.get("seed", 0) if body.get("temperature") else 0
    if found := re.search(r"Is there an? (\w+)", text):
        return "Yes" if found[1] in sentences_about(image, 3) else "No"
    if "Question:" in text:
        name = hashlib.sha256(image).hexdigest()[:6]
        return f"Question: What is in image {name}?\nAnswer: {sentences_about(image, 2, seed)}"
    return sentences_about(image, 5, seed)


class VisionServer:
    """
    Args:
        fault_rate: share of requests that get a fault instead of an answer.
        outage_s: after `outage_at` requests, all connections are refused for so long.
        key: what a request must bring, if anything.
        remembers: whether an image may be named that was sent before; clear `self.remembers` and they are forgotten.
        start_mark: "missing" or "in the template", where tokens are told as vLLM does.
    """

    def __init__(
        self,
        *,
        answer: Callable[[dict[str, Any]], str] = say,
        fault_rate: float = 0.0,
        faults: tuple[str, ...] = FAULTS,
        outage_at: int | None = None,
        outage_s: float = 0.0,
        logprobs: bool = True,
        continues: bool = True,
        candidates: bool = True,
        schema: bool = True,
        usage: bool = True,
        max_pixels: int | None = None,
        remembers: bool = False,
        start_mark: str | None = None,
        models: tuple[str, ...] = ("tiny-vision",),
        key: str | None = None,
        latency_s: float = 0.0,
        most_at_once: int | None = None,
        seed: int = 0,
        port: int = 0,
    ) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.counts: Counter[str] = Counter()
        self.most_seen_at_once = 0
        self._answer, self._fault_rate, self._faults = answer, fault_rate, faults
        self._outage_at, self._outage_s, self._out_until = outage_at, outage_s, 0.0
        self._logprobs, self._continues, self._candidates = logprobs, continues, candidates
        self._schema, self._usage, self._max_pixels = schema, usage, max_pixels
        self.num_prompt_tokens = self.num_completion_tokens = 0  # that were counted for answers
        self.remembers: dict[str, Any] | None = {} if remembers else None
        self._start_mark = start_mark
        self._models, self._key, self.latency_s = models, key, latency_s
        self._most_at_once, self._num_now = most_at_once, 0
        self._rng, self._lock = random.Random(seed), threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer._list(self)

            def do_POST(self) -> None:
                if self.path == "/tokenize":
                    outer._tokenize(self)
                else:
                    outer._complete(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 512
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass  # a client that has gone away is no news

        self._server = Server(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> VisionServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _list(self, handler: BaseHTTPRequestHandler) -> None:
        if handler.path == "/health":
            _send(handler, 200, {})
            return
        data = [{"id": name, "object": "model", "owned_by": "tests", "max_model_len": 4096} for name in self._models]
        _send(handler, 200, {"object": "list", "data": data})

    def _complete(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            self.bodies.append(body)
            number = len(self.bodies)
            fault = self._rng.choice(self._faults) if self._rng.random() < self._fault_rate else None
            if number == self._outage_at:
                self._out_until = time.monotonic() + self._outage_s
            self._num_now += 1
            self.most_seen_at_once = max(self.most_seen_at_once, self._num_now)
            is_full = self._most_at_once is not None and self._num_now > self._most_at_once
        body = self._with_image(body)
        try:
            if time.monotonic() < self._out_until:
                self._count("outage")
                _reset(handler)
            elif is_full:
                self._count("full")
                _send(handler, 429, {"error": {"message": "too many requests"}})
            elif self._key is not None and handler.headers.get("Authorization") != f"Bearer {self._key}":
                _send(handler, 401, {"error": {"message": "invalid key"}})
            elif body["model"] not in self._models:
                _send(handler, 404, {"error": {"message": f"no model {body['model']}"}})
            elif body.get("continue_final_message") and not self._continues:
                _send(handler, 422, {"error": {"message": "Unexpected fields in the request"}})
            elif isinstance(words := body["messages"][0]["content"], list) and words[0].get("image_url", ()) is None:
                _send(handler, 400, {"error": {"message": "Cache miss for image at index 0 but data is not provided."}})
            elif self._is_too_large(body):
                _send(handler, 400, {"error": {"message": "the image is too large"}})
            elif fault is not None:
                self._count(fault)
                self._break(handler, fault)
            else:
                time.sleep(self.latency_s)
                self._count("answered")
                try:
                    _send(handler, 200, self._completion(body))
                except ValueError as error:  # the model's
                    _send(handler, 500, {"error": {"message": str(error)}})
        finally:
            with self._lock:
                self._num_now -= 1

    def _count(self, event: str) -> None:
        with self._lock:
            self.counts[event] += 1

    def _completion(self, body: dict[str, Any]) -> dict[str, Any]:
        num = body.get("n", 1) if self._candidates else 1
        choices = [self._choice(body, index) for index in range(num)]
        num_said = sum(len(choice["message"]["content"].split()) for choice in choices)
        num_read = NUM_TOKENS_OF_AN_IMAGE + len(words_of(body).split())
        answer = {"id": "x", "object": "chat.completion", "model": body["model"], "choices": choices}
        if not self._usage:
            return answer
        with self._lock:
            self.num_prompt_tokens += num_read
            self.num_completion_tokens += num_said
        return answer | {"usage": {"prompt_tokens": num_read, "completion_tokens": num_said}}

    def _with_image(self, body: dict[str, Any]) -> dict[str, Any]:
        """With the image that is named only, where it is remembered."""
        first, *rest = body["messages"]
        part = first["content"][0]
        if self.remembers is None or "uuid" not in part:
            return body
        with self._lock:
            if part["image_url"] is not None:
                self.remembers[part["uuid"]] = part["image_url"]
            whole = {**part, "image_url": self.remembers.get(part["uuid"])}
        return {**body, "messages": [{**first, "content": [whole, *first["content"][1:]]}, *rest]}

    def _tokenize(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        if self._start_mark is None:
            _send(handler, 404, {"detail": "Not Found"})
            return
        words = [len(word) for word in words_of(body).split()]
        chat = [1, *words] if self._start_mark == "in the template" else words
        _send(handler, 200, {"tokens": [1, *chat] if body["add_special_tokens"] else chat})

    def _is_too_large(self, body: dict[str, Any]) -> bool:
        if self._max_pixels is None:
            return False
        image = Image.open(io.BytesIO(image_of(body)))
        return image.width * image.height > self._max_pixels

    def _choice(self, body: dict[str, Any], index: int) -> dict[str, Any]:
        if "response_format" in body and self._schema:
            return self._formed(body, index)
        text = self._answer(body | ({"seed": body.get("seed", 0) + index} if index else {}))
        if body.get("continue_final_message"):
            begun = body["messages"][-1]["content"]
            text = text[len(begun) :] if text.startswith(begun) else f" {text}"
        words = re.findall(r"\s*\S+", text)
        said = words[: body.get("max_tokens", 10_000)]
        finish = "stop" if len(said) == len(words) else "length"
        choice: dict[str, Any] = {
            "index": index,
            "finish_reason": finish,
            "message": {"role": "assistant", "content": "".join(said)},
        }
        if body.get("logprobs") and self._logprobs:
            choice["logprobs"] = {"content": [_logprobs(word, body.get("top_logprobs", 0)) for word in said]}
        return choice

    def _formed(self, body: dict[str, Any], index: int) -> dict[str, Any]:
        """The answer in the form of the schema, which the tests have one of."""
        message = {"role": "assistant", "content": json.dumps({"answer": self._answer(body).lower()})}
        return {"index": index, "finish_reason": "stop", "message": message}

    def _break(self, handler: BaseHTTPRequestHandler, fault: str) -> None:
        if fault == "429 with Retry-After":
            _send(handler, 429, {"error": {"message": "slow down"}}, {"Retry-After": "0.2"})
        elif fault.isdigit():
            _send(handler, int(fault), {"error": {"message": "told to fail"}})
        elif fault == "reset":
            _reset(handler)
        elif fault == "half a JSON":
            _send_bytes(handler, 200, b'{"id": "x", "choices": [{"index": 0, "mess')
        elif fault == "HTML":
            _send_bytes(handler, 200, b"<html><body>Bad gateway</body></html>", "text/html")
        elif fault == "an error under 200":
            _send(handler, 200, {"error": {"message": "worker lost", "code": 500}})
        elif fault == "no choices":
            _send(handler, 200, {"id": "x", "choices": []})
        elif fault == "wrong choices":
            _send(handler, 200, {"id": "x", "choices": ["text"]})
        elif fault == "a million characters":
            message = {"role": "assistant", "content": "x" * 1_000_000}
            _send(handler, 200, {"id": "x", "choices": [{"index": 0, "finish_reason": "stop", "message": message}]})
        elif fault == "drip":
            handler.send_response(200)
            handler.send_header("Content-Length", "1000000")
            handler.end_headers()
            for _ in range(100):
                handler.wfile.write(b" ")
                handler.wfile.flush()
                time.sleep(0.1)
            _reset(handler)


def _logprobs(word: str, num_others: int) -> dict[str, Any]:
    other = {"yes": "No", "no": "Yes"}.get(word.strip().lower(), "something")
    likeliest = [{"token": word, "logprob": -0.1}, {"token": other, "logprob": -2.4}]
    return {"token": word, "logprob": -0.1, "top_logprobs": likeliest[:num_others]}


def _send(handler: BaseHTTPRequestHandler, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
    _send_bytes(handler, status, json.dumps(content).encode(), headers=headers)


def _send_bytes(
    handler: BaseHTTPRequestHandler,
    status: int,
    data: bytes,
    kind: str = "application/json",
    headers: dict[str, str] | None = None,
) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(data)))
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data)


def _reset(handler: BaseHTTPRequestHandler) -> None:
    """The connection ends with a reset, as when the server's process dies."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.connection.close()


if __name__ == "__main__":  # PORT [SECONDS THAT IT LIVES]
    with VisionServer(port=int(sys.argv[1])):
        time.sleep(float(sys.argv[2]) if len(sys.argv) > 2 else 3600)
