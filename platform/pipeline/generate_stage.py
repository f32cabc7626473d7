"""The stage of the streaming graph that makes rows of images: an actor, and the worker in a process of its own.

Whatever kills the worker's process does not take the actor's blocks along. Images that were under way when it died run
again one at a time, with nothing else beside them. The one that kills it a second time becomes a failed row, `crashed`;
the others are as if nothing had been.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any

import pyarrow as pa

from vigc.platform.images.decode import ERROR_KINDS
from vigc.platform.images.isolation import Child, ChildDied
from vigc.platform.pipeline.block_batch import BlockBatch, errors_carried, from_bytes, to_bytes
from vigc.platform.pipeline.heartbeat import Heartbeat
from vigc.platform.pipeline.metrics import EngineLoad, RunMetric, keep_telling, of_load
from vigc.platform.records import RowStatus, RunError
from vigc.platform.schema import ROW

LOAD_TIMEOUT_S = 5.0
MAX_CRASHES_IN_A_ROW = 10


class GenerateStage:
    """The actor; hundreds of blocks may share its event loop."""

    def __init__(
        self, worker: type, worker_args: tuple[Any, ...], heartbeat: Heartbeat, pass_number: str, run: str
    ) -> None:
        self._child = Child(WorkerHost, (worker, worker_args))
        self._child.start()
        self._heartbeat = heartbeat
        self._pass_number = pass_number
        self._access = _Access()
        self._crashes_in_a_row = 0
        self._num_images = 0  # under way
        keep_telling(run, self._load)

    def _load(self) -> dict[RunMetric, float]:
        return of_load(self._child.ask(None, LOAD_TIMEOUT_S), self._num_images)

    async def __call__(self, table: pa.Table) -> AsyncIterator[pa.Table]:
        batch = BlockBatch.of(table)
        if batch.payload is None or await self._heartbeat.is_stopping_async():
            yield BlockBatch(batch.block, None).as_table()
            return
        self._heartbeat.begin(batch.block)
        images = from_bytes(batch.payload)  # which copies nothing
        self._num_images += images.num_rows
        try:
            with errors_carried():
                rows = await self._with_heartbeat(self._rows(batch.payload, images))
        finally:
            self._num_images -= images.num_rows
        yield BlockBatch(batch.block, rows).as_table()

    async def _with_heartbeat(self, work: Coroutine[Any, Any, bytes]) -> bytes:
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                self._heartbeat.beat()
                await asyncio.wait({task}, timeout=self._heartbeat.interval_s)
            return task.result()
        finally:
            task.cancel()

    async def _rows(self, payload: bytes, images: pa.Table) -> bytes:
        """
        Args:
            payload: the images in bytes, which go to the worker as they came.
        """
        try:
            async with self._access.shared():
                return await self._ask(payload)
        except ChildDied as died:
            _refuse_bad_start(died)
        made = [await self._row_alone(images.slice(index, 1)) for index in range(images.num_rows)]
        return to_bytes(pa.concat_tables(made))

    async def _row_alone(self, image: pa.Table) -> pa.Table:
        async with self._access.exclusive():
            try:
                row = from_bytes(await self._ask(to_bytes(image)))
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

    async def _ask(self, payload: bytes) -> bytes:
        rows: bytes = await self._child.acall(payload)
        return rows


class WorkerHost:
    """What runs in the worker's process."""

    def __init__(self, worker: type, worker_args: tuple[Any, ...]) -> None:
        self._worker = worker(*worker_args)

    async def __call__(self, payload: bytes | None) -> bytes | EngineLoad | None:
        """Rows for images; for None, how busy the worker is, where it can tell."""
        if payload is None:
            return self._worker.load() if hasattr(self._worker, "load") else None
        images = from_bytes(payload)
        made = [rows async for rows in self._worker(images)]
        rows = pa.concat_tables(made) if made else ROW.empty_table()
        if not rows["image_id"].equals(images["image_id"]):
            lost = sorted({*images["image_id"].to_pylist()} - {*rows["image_id"].to_pylist()})
            raise RunError(
                f"The worker did not give exactly one row for each image of a block; without one are {lost[:3]}. "
                "This is a fault in vigc; please report it."
            )
        return to_bytes(rows)


class _Access:
    """A lock that many share or one has alone, in the order in which they ask."""

    def __init__(self) -> None:
        self._num_sharing = 0

    @cached_property
    def _next(self) -> asyncio.Lock:
        return asyncio.Lock()

    @cached_property
    def _is_free(self) -> asyncio.Event:
        event = asyncio.Event()
        event.set()
        return event

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        async with self._next:
            self._num_sharing += 1
            self._is_free.clear()
        try:
            yield
        finally:
            self._num_sharing -= 1
            if not self._num_sharing:
                self._is_free.set()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        async with self._next:
            await self._is_free.wait()
            yield


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
