"""Dataset directories and pictures for tests, made without Ray."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fake_workers import KINDS, make_row
from PIL import Image

from vigc.platform.records import ImageRecord, Row
from vigc.platform.schema import ROW, to_dict
from vigc.platform.store import Pass, Store

REQUEST: dict[str, Any] = {"kinds": KINDS, "source": "test", "policy": {"name": "paper", "max_units": 4}}


def records(num: int) -> list[ImageRecord]:
    return [ImageRecord(f"im{i}.png", f"/nowhere/im{i}.png") for i in range(num)]


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


def commit(pass_: Pass, rows: Iterable[Row], name: str) -> None:
    """One block as Ray Data leaves it: the rows, and the entry in the ledger."""
    table = pa.Table.from_pylist([to_dict(one) for one in rows], schema=ROW)
    pass_.rows_dir.mkdir(exist_ok=True)
    pass_.checkpoint_dir.mkdir(exist_ok=True)
    pq.write_table(table, pass_.rows_dir / f"{name}-0.parquet")
    pq.write_table(table.select(["image_id"]), pass_.checkpoint_dir / f"{name}.parquet")


def finished(out: Path, num: int = 6, failed: int = 1) -> Store:
    """A data set of two blocks, the last `failed` images unreadable."""
    store = Store(out)
    wanted = records(num)
    pass_ = store.create_pass(REQUEST, wanted)
    made = [row(record, colour=i, error="truncated" if i >= num - failed else None) for i, record in enumerate(wanted)]
    commit(pass_, made[: num // 2], "b_000000")
    commit(pass_, made[num // 2 :], "b_000001")
    return store


def draw(path: Path, seed: int, size: tuple[int, int] = (40, 30)) -> Path:
    """A small picture with some structure, different for each seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (4, 5, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse.resize(size, Image.Resampling.BICUBIC).save(path)
    return path
