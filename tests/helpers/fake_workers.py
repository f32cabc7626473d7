"""Workers without a model, for the pipeline's tests: rows that follow from the record and the pixels alone."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from vigc.platform.images.decode import decode_batch
from vigc.platform.records import (
    Conversation,
    CorrectionStep,
    Kind,
    ModelError,
    Row,
    RowError,
    RowStatus,
    Sentence,
    Stop,
    Verdict,
)
from vigc.platform.schema import ROW, to_dict

KINDS = ["conversation", "detail"]


def make_row(values: dict[str, Any]) -> Row:
    failed = values["error_kind"] is not None
    return Row(
        image_id=values["image_id"],
        uri=values["uri"],
        width=values["width"],
        height=values["height"],
        objects=values["objects"],
        captions=values["captions"],
        status=RowStatus.FAILED if failed else RowStatus.OK,
        error=RowError(values["error_kind"], values["error_message"]) if failed else None,
        sha256=values["sha256"],
        phash=values["phash"],
        conversations=[] if failed else [_conversation(Kind(kind), values) for kind in KINDS],
        pass_="001",
    )


def _conversation(kind: Kind, values: dict[str, Any]) -> Conversation:
    colour = "-".join(map(str, values["pixels"][:3]))
    answer = f"The first pixel is {colour}."
    return Conversation(
        kind=kind,
        instruction="Describe.",
        question=f"What colour is {values['image_id']}?",
        vig_answer=f"{answer} There is a dog.",
        one_shot_answer=None,
        answer=answer,
        steps=[CorrectionStep(answer, answer, Stop.SENTENCE, 5, -0.5), CorrectionStep("", "", Stop.END, 1, None)],
        sentences=[Sentence(answer)],
        num_tokens=12,
        status=Verdict.KEPT if values["pixels"][0] % 2 else Verdict.REJECTED,
        reasons=[] if values["pixels"][0] % 2 else ["even"],
    )


class FakeWorker:
    """One row for each image.

    Args:
        trace: a folder where it leaves a file named by its process.
        gate: no row before this file is there.
    """

    def __init__(self, delay_s: float = 0.0, trace: str | None = None, gate: str | None = None) -> None:
        self.delay_s, self.trace, self.gate = delay_s, trace, gate

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        rows = await asyncio.gather(*(self.one(values) for values in batch.to_pylist()))
        yield pa.Table.from_pylist([to_dict(row) for row in rows], schema=ROW)

    async def one(self, values: dict[str, Any]) -> Row:
        await asyncio.sleep(self.delay_s)
        while self.gate is not None and not Path(self.gate).exists():
            await asyncio.sleep(0.2)
        if self.trace is not None:
            Path(self.trace, f"worker-{os.getpid()}").touch()
        return make_row(values)


class ToldWorker(FakeWorker):
    """Built as `vigc generate` builds its worker."""

    def __init__(self, settings: object) -> None:
        super().__init__()


class DyingWorker(FakeWorker):
    """Its process is killed at some images: once, when `marker` is a path to remember it by, or every time."""

    def __init__(self, poison: list[str], marker: str | None = None) -> None:
        super().__init__()
        self.poison, self.marker = poison, Path(marker) if marker else None

    async def one(self, values: dict[str, Any]) -> Row:
        if values["image_id"] in self.poison and not (self.marker and self.marker.exists()):
            if self.marker:
                self.marker.touch()
            os.kill(os.getpid(), signal.SIGSEGV)
        return await super().one(values)


class StillbornWorker(FakeWorker):
    """Its process dies before it has seen an image."""

    def __init__(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class BrokenDevice(FakeWorker):
    """Dies at every image, as a worker does whose GPU is gone."""

    async def one(self, values: dict[str, Any]) -> Row:
        os.kill(os.getpid(), signal.SIGABRT)
        return await super().one(values)


class RaisingWorker(FakeWorker):
    """Raises what it is told to, where it is told to."""

    def __init__(self, place: str, what: str) -> None:
        super().__init__()
        self.what = what
        if place == "init":
            self.fail()

    async def one(self, values: dict[str, Any]) -> Row:
        self.fail()
        return await super().one(values)

    def fail(self) -> None:
        match self.what:
            case "model":
                raise ModelError("weights.safetensors: a key is missing. Get the file again.")
            case "disk":
                raise OSError(errno.ENOSPC, "No space left on device", "/somewhere")
            case "bug":
                raise ValueError("the worker has a bug")


class ForgetfulWorker(FakeWorker):
    """Loses one row of every batch."""

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        async for table in super().__call__(batch):
            yield table.slice(1)


def traced_decode(batch: pa.Table, image_size: int, max_pixels: int) -> pa.Table:
    """`decode_batch`, leaving its process id beside the images."""
    Path(batch["uri"][0].as_py()).parent.joinpath(f"decode-{os.getpid()}").touch()
    return decode_batch(batch, image_size, max_pixels)


def dying_decode(batch: pa.Table, image_size: int, max_pixels: int) -> pa.Table:
    os._exit(1)
