"""A directory of `vigc generate` as training data: the kept conversations, each question with its corrected answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vigc.platform.records import Instruction, Kind, RowStatus, Verdict
from vigc.platform.store import Store


def is_dataset(place: Path) -> bool:
    return (place / "passes").is_dir()


def read_dataset(place: Path) -> Iterator[Instruction]:
    for row in Store(place).rows():
        if row["status"] != RowStatus.OK:
            continue
        for spoken in row["conversations"]:
            if spoken["status"] == Verdict.KEPT and spoken["question"] and spoken["answer"]:
                kind = Kind(spoken["kind"])
                where = f"{place}: {row['image_id']}, {kind.value}"
                yield Instruction(row["uri"], spoken["question"], (spoken["answer"],), (1.0,), kind, where)
