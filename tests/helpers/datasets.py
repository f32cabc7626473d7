"""Dataset directories and pictures for tests, made without Ray."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from fake_workers import KINDS, make_row
from PIL import Image

from vigc.platform.dataset.layout import Block
from vigc.platform.dataset.ledger import CommittedFile, as_parquet, count
from vigc.platform.dataset.ledger import commit as commit_block
from vigc.platform.dataset.store import Pass, Store
from vigc.platform.records import ImageRecord, Row
from vigc.platform.schema import ROW, to_dict
from vigc.platform.sources.base import Records
from vigc.platform.storage import Folder

REQUEST: dict[str, Any] = {"kinds": KINDS, "source": "test", "policy": {"name": "paper", "max_units": 4}}


def records(num: int) -> list[ImageRecord]:
    return [ImageRecord(f"im{i}.png", f"/nowhere/im{i}.png") for i in range(num)]


def source(num: int) -> Records:
    return Records(records(num))


def row(record: ImageRecord, colour: int = 7, error: str | None = None) -> Row:
    """What `FakeWorker` makes of a picture whose first pixel is (colour, 0, 0), or of one that could not be read."""
    found = {
        "pixels": None if error else bytes([colour, 0, 0]),
        "sha256": None,
        "phash": None,
        "error_kind": error,
        "error_message": error and "because",
    }
    return make_row(to_dict(record) | found)


def table(rows: Iterable[Row]) -> pa.Table:
    return pa.Table.from_pylist([to_dict(one) for one in rows], schema=ROW)


def commit(pass_: Pass, rows: Iterable[Row], number: int, shard: int = 0) -> CommittedFile:
    """One block, as the last stage of a run commits it."""
    return commit_block(pass_.folder, Block(shard, number), table(rows))


def leave(folder: Folder, name: str, rows: Iterable[Row]) -> None:
    """A file of rows under any name."""
    made = table(rows)
    folder.write(name, as_parquet(made, count(made)))


def finished(out: Path | str, num: int = 6, failed: int = 1) -> Store:
    """A data set of two blocks, the last `failed` images unreadable."""
    store = Store(out)
    wanted = records(num)
    half = max(1, num // 2)
    pass_ = store.create_pass(REQUEST, Records(wanted), rows_per_block=half)
    made = [row(record, colour=i, error="truncated" if i >= num - failed else None) for i, record in enumerate(wanted)]
    for number in range(-(-num // half)):
        commit(pass_, made[number * half : (number + 1) * half], number)
    return store


def draw(path: Path, seed: int, size: tuple[int, int] = (40, 30)) -> Path:
    """A small picture with some structure, different for each seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (4, 5, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse.resize(size, Image.Resampling.BICUBIC).save(path)
    return path
