"""The actor's class, driven with an engine that fails where it is told to."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pyarrow as pa
import pytest

from vigc.jobs.generate.worker import Worker, WorkerSettings
from vigc.model.completion import Completion
from vigc.model.conversation.image import ConversationSettings
from vigc.model.conversation.policy import POLICIES
from vigc.model.engines.interface import EngineLost
from vigc.model.engines.settings import EngineSettings
from vigc.model.prompts import load_pack
from vigc.platform.images.decode import DECODED
from vigc.platform.records import ConfigError, Kind, ModelError, Stop
from vigc.platform.schema import ROW

SIZE = 2
SETTINGS = WorkerSettings(
    EngineSettings(model="none"),
    ConversationSettings(load_pack(), POLICIES["paper"], (Kind.CONVERSATION, Kind.DETAIL), seed=5),
    pass_number="003",
)


class ScriptedEngine:
    """Knows a picture by its first byte; 13 is a picture that it cannot bear."""

    image_size = SIZE

    def __init__(self, error=None):
        self.error, self.open, self.cancelled, self.seeds = error, 0, 0, []

    @asynccontextmanager
    async def image(self, data):
        assert len(data) == SIZE * SIZE * 3
        self.open += 1
        try:
            yield data[0]
        finally:
            self.open -= 1

    def usage(self, image):
        return None

    async def candidates(self, image, request):
        self.seeds.append(request.seed)
        if image == 13:
            if "full description" in request.prompt:
                raise self.error
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        await asyncio.sleep(0)
        if "Question:" not in request.prompt:
            return [Completion(f" Question: What is {image}? Answer: A number. And more.", Stop.END, 9, -0.5)]
        return [Completion("" if request.prefix else " A number.", Stop.END, 3, -0.5)]


@pytest.fixture
def make_worker(monkeypatch):
    def make(engine, settings=SETTINGS):
        monkeypatch.setattr("vigc.jobs.generate.worker.start_engine", lambda settings: engine)
        return Worker(settings)

    return make


def batch_of(*first_bytes, broken=0):
    rows = [{"image_id": f"{b}.png", "uri": f"/x/{b}.png", "pixels": bytes([b]) * SIZE * SIZE * 3} for b in first_bytes]
    rows += [
        {"image_id": f"broken{i}.png", "uri": "/x", "error_kind": "truncated", "error_message": "cut"}
        for i in range(broken)
    ]
    return pa.Table.from_pylist(rows, schema=DECODED)


def rows_from(worker, batch):
    async def collect():
        return [table async for table in worker(batch)]

    (table,) = asyncio.run(collect())
    assert table.schema == ROW
    return {row["image_id"]: row for row in table.to_pylist()}


def test_each_image_gives_a_row_with_all_kinds(make_worker):
    engine = ScriptedEngine()
    rows = rows_from(make_worker(engine), batch_of(1, 2))

    assert [row["status"] for row in rows.values()] == ["ok", "ok"]
    assert [c["kind"] for c in rows["2.png"]["conversations"]] == ["conversation", "detail"]
    assert {c["question"] for c in rows["2.png"]["conversations"]} == {"What is 2?"}
    assert {c["vig_answer"] for c in rows["2.png"]["conversations"]} == {"A number. And more."}
    assert {c["answer"] for c in rows["2.png"]["conversations"]} == {"A number."}
    assert rows["2.png"]["pass"] == "003"
    assert engine.open == 0


def test_an_image_that_could_not_be_read_keeps_its_reason(make_worker):
    rows = rows_from(make_worker(ScriptedEngine()), batch_of(1, broken=1))

    assert rows["1.png"]["status"] == "ok"
    assert rows["broken0.png"]["status"] == "failed"
    assert rows["broken0.png"]["error"] == {"kind": "truncated", "message": "cut"}


def test_an_engine_that_fails_on_one_image_fails_that_row_alone(make_worker):
    engine = ScriptedEngine(ModelError("no memory"))
    rows = rows_from(make_worker(engine), batch_of(1, 13, 2))

    assert [row["status"] for row in rows.values()] == ["ok", "failed", "ok"]
    assert rows["13.png"]["error"] == {"kind": "engine", "message": "ModelError: no memory"}
    assert rows["13.png"]["conversations"] == []
    assert (engine.open, engine.cancelled) == (0, 1)  # the other kind of that image did not go on


def test_an_engine_that_is_lost_takes_its_process_along(make_worker, monkeypatch, capfd):
    """Whose end is seen by the pipeline, which starts it anew and tries the images one by one."""
    ended = []
    monkeypatch.setattr("os._exit", ended.append)
    with suppress(Exception):
        rows_from(make_worker(ScriptedEngine(EngineLost("vLLM is gone."))), batch_of(13))
    assert ended == [1]
    assert "vLLM is gone." in capfd.readouterr().err


def test_a_setting_that_the_engine_refuses_ends_the_run(make_worker):
    with pytest.raises(ConfigError, match="no beams"):
        rows_from(make_worker(ScriptedEngine(ConfigError("no beams"))), batch_of(13))


def test_seeds_depend_on_the_run_s_seed_and_the_image_alone(make_worker):
    def seeds(batch, seed=5):
        engine = ScriptedEngine()
        rows_from(
            make_worker(engine, replace(SETTINGS, conversations=replace(SETTINGS.conversations, seed=seed))), batch
        )
        return set(engine.seeds)

    assert seeds(batch_of(1)) < seeds(batch_of(2, 1))
    assert seeds(batch_of(1)).isdisjoint(seeds(batch_of(2)))
    assert seeds(batch_of(1)).isdisjoint(seeds(batch_of(1), seed=6))
