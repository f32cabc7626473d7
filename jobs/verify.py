"""`vigc verify`: is everything there, exactly once and untorn?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from vigc.platform.verify import Verification, verify

__all__ = ["as_json", "in_words", "verify"]


def in_words(found: Verification) -> Iterator[str]:
    if found.ok:
        failed = f", {found.num_failed} of them for images that could not be used" if found.num_failed else ""
        yield f"ok: {found.num_requested} images asked for, {found.num_rows} rows{failed}, none double or torn."
        return
    yield from found.problems
    yield f"not ok: {len(found.problems)} problems; {found.num_requested} images asked for, {found.num_rows} rows."


def as_json(found: Verification) -> dict[str, Any]:
    return {"ok": found.ok, **asdict(found)}
