"""The stages of the streaming graph: which blocks are to be made, their pixels, the conversations, the commit.

A block travels as one Ray Data row whose payload is an Arrow table in bytes, so Ray can neither split nor join blocks,
and what a task is at work on, loses and is given again is always one block. Any stage may be run again for a block at
any time: the manifest says what is in it, and a block that is committed already is left as it is.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
from ray.data import Datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

from vigc.platform.dataset.layout import Block, Layout
from vigc.platform.dataset.ledger import Committed, commit
from vigc.platform.dataset.passes import read_block
from vigc.platform.dataset.tally import Tally
from vigc.platform.images.decode import ERROR_KINDS
from vigc.platform.images.isolation import Child, ChildDied
from vigc.platform.pipeline.metrics import EngineLoad, Metric, keep_telling, of_load
from vigc.platform.records import RowStatus, RunError
from vigc.platform.schema import ROW
from vigc.platform.storage import Folder

# A payload of null says that the block was not begun, because the run is being stopped.
UNIT = pa.schema([("shard", pa.int32()), ("block", pa.int32()), ("payload", pa.large_binary())])
COMMITTED = pa.schema(
    [
        ("shard", pa.int32()),
        ("block", pa.int32()),
        ("file", pa.string()),
        ("num_bytes", pa.int64()),
        ("tally", pa.string()),  # as JSON; null without a file
    ]
)
STOP_POLL_S = 0.5
LOAD_TIMEOUT_S = 5.0
Measure = Callable[[pa.Table], pa.Table]  # rows of the schema ROW to the same rows with more known of them
MAX_CRASHES_IN_A_ROW = 10


class Blocks(Datasource):
    """The blocks to be made, a task for each shard, in order."""

    def __init__(self, remaining: list[tuple[int, list[int]]]) -> None:
        self._remaining = remaining

    def get_name(self) -> str:
        return "Blocks"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *args: Any, **kwargs: Any) -> list[ReadTask]:
        unknown = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)
        return [ReadTask(_units_of(shard, numbers), unknown, UNIT) for shard, numbers in self._remaining]


def _units_of(shard: int, numbers: list[int]) -> Any:
    def read() -> Iterator[pa.Table]:
        for number in numbers:
            yield _unit(Block(shard, number), b"")

    return read


class StopFlag:
    """Whether the run is to come to its end, which is known half a second later at most; and what is under way then."""

    def __init__(self, actor: Any, beat_s: float) -> None:
        self._actor = actor
        self.beat_s = beat_s  # how often a process says that it is at work

    def begin(self, block: Block) -> None:
        """Its conversations have begun."""
        self._actor.begin.remote(block)

    def end(self, block: Block) -> None:
        """It is committed, or was not begun."""
        self._actor.end.remote(block)

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Says that this process is at work, as long as the block lasts; see watch.py."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(self.beat_s):
                self.beat()

        self.beat()
        thread = threading.Thread(target=beat, name="beat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            self.beat()

    def beat(self) -> None:
        self._actor.beat.remote()

    def num_beats(self) -> Any:
        """A reference to it."""
        return self._actor.num_beats.remote()

    def is_set(self) -> bool:
        import ray

        known = self._known()
        return self._note(ray.get(self._actor.is_set.remote())) if known is None else known

    async def is_set_now(self) -> bool:
        """The same for those who share an event loop."""
        known = self._known()
        return self._note(await self._actor.is_set.remote()) if known is None else known

    def _known(self) -> bool | None:
        asked, answer = _answers.get(self._key, (-STOP_POLL_S, False))
        return answer if answer or time.monotonic() - asked < STOP_POLL_S else None

    def _note(self, answer: bool) -> bool:
        _answers.clear()  # of earlier runs that this process worked for
        _answers[self._key] = time.monotonic(), answer
        return answer

    @property
    def _key(self) -> tuple[int, bytes]:
        return os.getpid(), self._actor._actor_id.binary()


_answers: dict[tuple[int, bytes], tuple[float, bool]] = {}


@dataclass(frozen=True)
class DecodeStage:
    """Fetches a block's images and makes pixels of them, in a task on any CPU worker."""

    folder: Folder  # the pass's
    layout: Layout
    decode: Callable[[pa.Table, int, int], pa.Table]  # images.decode_batch
    image_size: int
    max_pixels: int
    stop: StopFlag

    def __call__(self, unit: pa.Table) -> pa.Table:
        block = _block_of(unit)
        if self.stop.is_set():
            return _unit(block, None)
        with _carried(), self.stop.beating():
            records = read_block(self.folder, self.layout, block)
            return _unit(block, to_bytes(self.decode(records, self.image_size, self.max_pixels)))


class GenerateStage:
    """The actor. The worker lives in a process of its own: whatever kills that does not take the blocks along.

    Images that were under way when it died run again one at a time, with nothing else beside them. The one that kills
    it a second time becomes a failed row, `crashed`; the others are as if nothing had been.
    """

    def __init__(self, worker: type, worker_args: tuple[Any, ...], stop: StopFlag, pass_number: str, run: str) -> None:
        self._child = Child(WorkerHost, (worker, worker_args))
        self._child.start()
        self._stop = stop
        self._pass_number = pass_number
        self._crowd = _Crowd()
        self._crashes_in_a_row = 0
        self._num_images = 0  # under way
        keep_telling(run, self._load)

    def _load(self) -> dict[Metric, float]:
        return of_load(self._child.ask(None, LOAD_TIMEOUT_S), self._num_images)

    async def __call__(self, unit: pa.Table) -> AsyncIterator[pa.Table]:
        block, payload = _block_of(unit), unit["payload"][0].as_py()
        if payload is None or await self._stop.is_set_now():
            yield _unit(block, None)
            return
        self._stop.begin(block)
        images = from_bytes(payload)
        self._num_images += images.num_rows
        try:
            with _carried():
                rows = await self._beating(self._rows(images))
        finally:
            self._num_images -= images.num_rows
        yield _unit(block, to_bytes(rows))

    async def _beating(self, work: Coroutine[Any, Any, pa.Table]) -> pa.Table:
        """Waits for it, saying meanwhile that this process is at work: hundreds of blocks may share its event loop."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                self._stop.beat()
                await asyncio.wait({task}, timeout=self._stop.beat_s)
            return task.result()
        finally:
            task.cancel()

    async def _rows(self, images: pa.Table) -> pa.Table:
        try:
            async with self._crowd.together():
                return await self._ask(images)
        except ChildDied as died:
            _refuse_bad_start(died)
        made = [await self._alone(images.slice(index, 1)) for index in range(images.num_rows)]
        return pa.concat_tables(made)

    async def _alone(self, image: pa.Table) -> pa.Table:
        async with self._crowd.alone():
            try:
                row = await self._ask(image)
            except ChildDied as died:
                _refuse_bad_start(died)
                self._crashes_in_a_row += 1
                if self._crashes_in_a_row >= MAX_CRASHES_IN_A_ROW:
                    raise RunError(
                        f"The model's process died at {self._crashes_in_a_row} images one after the other; the last "
                        f"time, {died}. That is not the images' fault: see whether it has memory and a working device."
                    ) from died
                return _crashed(image, str(died), self._pass_number)
            self._crashes_in_a_row = 0
            return row

    async def _ask(self, images: pa.Table) -> pa.Table:
        rows = from_bytes(await self._child.acall(to_bytes(images)))
        if not rows["image_id"].equals(images["image_id"]):
            lost = sorted({*images["image_id"].to_pylist()} - {*rows["image_id"].to_pylist()})
            raise RunError(
                f"The worker did not give exactly one row for each image of a block; without one are {lost[:3]}. "
                "This is a fault in vigc; please report it."
            )
        return rows


class WorkerHost:
    """What runs in the worker's process."""

    def __init__(self, worker: type, worker_args: tuple[Any, ...]) -> None:
        self._worker = worker(*worker_args)

    async def __call__(self, payload: bytes | None) -> bytes | EngineLoad | None:
        """Rows for images; for None, how busy the worker is, where it can tell."""
        if payload is None:
            return self._worker.load() if hasattr(self._worker, "load") else None
        made = [rows async for rows in self._worker(from_bytes(payload))]
        return to_bytes(pa.concat_tables(made) if made else ROW.empty_table())


class WorkerFault(Exception):
    """Carries a stage's exception to the driver unchanged: Ray adds advice to the text of the one it sees."""


@contextmanager
def _carried() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise WorkerFault(error) from error


class _Crowd:
    """Many together, or one alone; who asks first comes first."""

    def __init__(self) -> None:
        self._num_together = 0

    @cached_property
    def _door(self) -> asyncio.Lock:
        return asyncio.Lock()

    @cached_property
    def _empty(self) -> asyncio.Event:
        event = asyncio.Event()
        event.set()
        return event

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        async with self._door:
            self._num_together += 1
            self._empty.clear()
        try:
            yield
        finally:
            self._num_together -= 1
            if not self._num_together:
                self._empty.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._door:
            await self._empty.wait()
            yield


@dataclass(frozen=True)
class CommitStage:
    """Measures a block's rows and puts them on storage, in a task on any CPU worker."""

    folder: Folder  # the pass's
    stop: StopFlag
    measure: Measure | None

    def __call__(self, unit: pa.Table) -> pa.Table:
        block, payload = _block_of(unit), unit["payload"][0].as_py()
        with _carried(), self.stop.beating():
            found = Committed(block, "", 0) if payload is None else commit(self.folder, block, self._rows(payload))
        self.stop.end(block)
        return pa.Table.from_pylist(
            [
                {
                    "shard": block.shard,
                    "block": block.number,
                    "file": found.file,
                    "num_bytes": found.num_bytes,
                    "tally": None if found.tally is None else found.tally.as_json(),
                }
            ],
            schema=COMMITTED,
        )

    def _rows(self, payload: bytes) -> pa.Table:
        rows = from_bytes(payload)
        return rows if self.measure is None else self.measure(rows)


def committed_of(batch: pa.Table) -> Iterator[Committed]:
    """What the last stage says; a block that was not begun has no file."""
    for found in batch.to_pylist():
        tally = None if found["tally"] is None else Tally.from_json(found["tally"])
        yield Committed(Block(found["shard"], found["block"]), found["file"], found["num_bytes"], tally)


def to_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def from_bytes(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(pa.py_buffer(data)).read_all()


def _unit(block: Block, payload: bytes | None) -> pa.Table:
    return pa.table([[block.shard], [block.number], [payload]], schema=UNIT)


def _block_of(unit: pa.Table) -> Block:
    return Block(unit["shard"][0].as_py(), unit["block"][0].as_py())


def _crashed(image: pa.Table, how: str, pass_number: str) -> pa.Table:
    (values,) = image.to_pylist()
    row = {name: values.get(name) for name in ROW.names} | {
        "status": RowStatus.FAILED.value,
        "error": {"kind": "crashed", "message": f"{ERROR_KINDS['crashed']}, twice: {how}"},
        "conversations": [],
        "pass": pass_number,
    }
    logging.getLogger(__name__).warning("The model's process died twice at %s: %s", values["image_id"], how)
    return pa.Table.from_pylist([row], schema=ROW)


def _refuse_bad_start(died: ChildDied) -> None:
    """No image can be blamed for a worker that dies before it has seen one."""
    if died.while_starting:
        raise RunError(
            f"The model's process died while it was starting ({died}). It may lack memory: lower --slots or --actors."
        ) from died
