"""The whole service in one process, without Ray: its routes, guard, gateway and one replica's engine."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections.abc import AsyncGenerator
from typing import Any

from starlette.testclient import TestClient

from vigc.model.prompts import load_pack
from vigc.model.weights.identity import find_model
from vigc.serve.app import guarded
from vigc.serve.gateway import Parts, make_app
from vigc.serve.images import Pictures
from vigc.serve.messages import Event, Failed, Task
from vigc.serve.metrics import Figures
from vigc.serve.middleware import Keys
from vigc.serve.openai import Chat
from vigc.serve.replica import Talker
from vigc.serve.replica_client import AskReplicas
from vigc.serve.rows import Rows
from vigc.serve.settings import Settings
from vigc.serve.validation import find_objects


class Answer:
    """As a deployment handle's: an iterator that can be cancelled."""

    def __init__(self, events: AsyncGenerator[Event | Failed, None]) -> None:
        self._events = events

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> Event | Failed:
        return await anext(self._events)

    def cancel(self) -> None:
        asyncio.get_running_loop().create_task(self._events.aclose())


class Method:
    """As a method of a deployment handle."""

    def __init__(self, method: Any) -> None:
        self._method = method

    def remote(self, task: Task) -> Answer:
        return Answer(self._method(task))


class LocalService:
    """See the module."""

    def __init__(self, settings: Settings, *, talk: Any = None, keys: str = "", web: Any = None) -> None:
        self.talker = None if talk is not None else Talker(settings)
        model = find_model(settings.model)
        ask = AskReplicas(Method(talk or self.talker.talk), settings.answer_timeout_s)
        rows = Rows(settings, load_pack(settings.prompts), find_objects(settings), ask)
        self.pictures = Pictures(settings, model.image_size, web)
        self.app = make_app(
            Parts(
                model=model,
                rows=rows,
                chat=Chat(rows, model.name, ask),
                pictures=self.pictures,
                figures=Figures(),
                ready=self._ready,
                weights=lambda: None,
            )
        )
        self.guarded = guarded(self.app, settings, Keys(keys), Figures())
        self.client = TestClient(self.guarded)
        self.client.__enter__()

    async def _ready(self) -> dict[str, Any]:
        return {"slots": 1}

    def close(self) -> None:
        self.client.__exit__()
        self.pictures.stop()
        if self.talker is not None:
            self.talker.close()


def data_uri(data: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def sse(text: str) -> list[tuple[str, Any]]:
    """The events of a stream: name and data."""
    events = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events
