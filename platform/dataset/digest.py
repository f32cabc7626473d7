"""One hash over what a data set says, so that two runs can be compared in one line.

It covers (image_id, kind, vig_answer, answer) of every conversation in the view and nothing else: not the order of
files, not who made them when.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vigc.platform.dataset.store import Store
from vigc.platform.records import RowStatus

HASH_BYTES = 32


def digest(out: str | Path) -> str:
    """Hex SHA-256 over the sorted SHA-256 of the entries, each one a line of JSON; a failed row counts as
    (image_id, "", "", "").
    """
    hashes = bytearray()
    for entry in _entries(Store(out)):
        hashes += hashlib.sha256(json.dumps(entry, ensure_ascii=True).encode()).digest()
    ordered = np.sort(np.frombuffer(hashes, f"V{HASH_BYTES}").view(f"S{HASH_BYTES}")) if hashes else np.empty(0)
    return hashlib.sha256(ordered.tobytes()).hexdigest()


def _entries(store: Store) -> Iterator[tuple[str, str, str, str]]:
    for row in store.undecided_rows(["image_id", "status", "conversations"]):
        if row["status"] == RowStatus.FAILED:
            yield row["image_id"], "", "", ""
        for spoken in row["conversations"]:
            yield row["image_id"], spoken["kind"], spoken["vig_answer"], spoken["answer"]
