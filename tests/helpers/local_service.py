"""The whole service in one process, without Ray: its routes, middleware, gateway and one replica's engine."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from ports import free_port
from starlette.testclient import TestClient
from waiting import wait_until

from vigc.serve.app import with_middleware
from vigc.serve.conversations import ConversationService
from vigc.serve.gateway import make_app
from vigc.serve.images import ImageLoader
from vigc.serve.messages import Failure, ReplicaEvent, ReplicaTask
from vigc.serve.metrics import Metrics
from vigc.serve.middleware import ApiKeys
from vigc.serve.replica import EngineReplica
from vigc.serve.replica_client import ReplicaClient
from vigc.serve.settings import ServeSettings
from vigc.serve.validation import find_objects, prepare


class Answer:
    """As a deployment handle's: an iterator that can be cancelled."""

    def __init__(self, events: AsyncGenerator[ReplicaEvent | Failure, None]) -> None:
        self._events = events

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> ReplicaEvent | Failure:
        return await anext(self._events)

    def cancel(self) -> None:
        asyncio.get_running_loop().create_task(self._events.aclose())


class Method:
    """As a method of a deployment handle."""

    def __init__(self, method: Any) -> None:
        self._method = method

    def remote(self, task: ReplicaTask) -> Answer:
        return Answer(self._method(task))


class LocalService:
    """See the module."""

    def __init__(self, settings: ServeSettings, *, converse: Any = None, keys: str = "", web: Any = None) -> None:
        settings, chosen, _ = prepare(settings)
        self.replica = None if converse is not None else EngineReplica(settings, chosen)
        ask = ReplicaClient(Method(converse or self.replica.converse), settings.answer_timeout_s, Metrics())
        conversations = ConversationService(settings, chosen, find_objects(settings), ask)
        self.images = ImageLoader(settings, chosen.image_form, web)
        app = make_app(conversations, self.images, self._ready, lambda: None)
        self.with_middleware = with_middleware(app, settings, ApiKeys(keys), Metrics())
        self.client = TestClient(self.with_middleware)
        self.client.__enter__()

    async def _ready(self) -> dict[str, Any]:
        return {"slots": 1}

    @contextmanager
    def listening(self) -> Iterator[str]:
        """At a port of this machine; gives the address. On the event loop of the client, to which its parts belong."""
        config = uvicorn.Config(self.with_middleware, "127.0.0.1", free_port(), log_level="error", lifespan="off")
        server = uvicorn.Server(config)
        assert self.client.portal is not None
        serving = self.client.portal.start_task_soon(server.serve)
        try:
            wait_until(lambda: server.started)
            yield f"http://127.0.0.1:{config.port}/v1"
        finally:
            server.should_exit = True
            serving.result()

    def close(self) -> None:
        self.client.__exit__()
        self.images.stop()
        if self.replica is not None:
            self.replica.close()


def data_uri(data: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def sse(text: str) -> list[tuple[str, Any]]:
    """The events of a stream: name and data."""
    events = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events
