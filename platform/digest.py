"""One hash over what a dataset directory says, so that two runs can be compared in one line.

It covers (image_id, kind, vig_answer, answer) of every conversation in the view and nothing else: not the order of
files, not who made them when.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from vigc.platform.records import RowStatus
from vigc.platform.store import Store


def digest(out: str | Path) -> str:
    """Hex SHA-256 over the sorted entries, each one a line of JSON; a failed row counts as (image_id, "", "", "")."""
    lines = []
    for row in Store(out).rows(["image_id", "status", "conversations"]):
        if row["status"] == RowStatus.FAILED:
            lines.append(_line(row["image_id"], "", "", ""))
        for spoken in row["conversations"]:
            lines.append(_line(row["image_id"], spoken["kind"], spoken["vig_answer"], spoken["answer"]))
    whole = hashlib.sha256()
    for line in sorted(lines):
        whole.update(line)
    return whole.hexdigest()


def _line(*entry: str) -> bytes:
    return json.dumps(entry, ensure_ascii=True).encode() + b"\n"
