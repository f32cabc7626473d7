"""Counts of committed rows. Each file of rows carries its tally, so a run is counted without reading a row again.

Files that were written before a number was counted lack it, and count nothing for it.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vigc.platform.records import RowStatus, Verdict


@dataclass(frozen=True, slots=True)
class Mentions:
    """Objects that answers name, and those of them that are not in their images."""

    named: int = 0
    absent: int = 0

    def __add__(self, other: Mentions) -> Mentions:
        return Mentions(self.named + other.named, self.absent + other.absent)

    @property
    def chair_i(self) -> float | None:
        """The share that is absent; None where nothing is named."""
        return self.absent / self.named if self.named else None


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of rows."""

    rows: int = 0
    failed: int = 0  # images that could not be used
    kept: int = 0  # images with at least one kept conversation
    tokens: int = 0
    failed_by_reason: dict[str, int] = field(default_factory=dict)
    vig: Mentions = Mentions()  # in VIG's answers about annotated images
    vic: Mentions = Mentions()  # in the final answers about the same

    def __add__(self, other: Tally) -> Tally:
        reasons = Counter(self.failed_by_reason)
        reasons.update(other.failed_by_reason)
        return Tally(
            self.rows + other.rows,
            self.failed + other.failed,
            self.kept + other.kept,
            self.tokens + other.tokens,
            dict(reasons),
            self.vig + other.vig,
            self.vic + other.vic,
        )

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Tally:
        """
        Raises:
            ValueError, TypeError, KeyError: it is none.
        """
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Tally:
        mentions: dict[str, Any] = {name: Mentions(**values[name]) for name in ("vig", "vic") if name in values}
        known = {one.name: values[one.name] for one in fields(cls) if one.name in values}
        return cls(**known | mentions)


def count(rows: pa.Table) -> Tally:
    """
    Args:
        rows: of the schema ROW.
    """
    is_failed = pc.equal(rows["status"], RowStatus.FAILED.value)
    reasons = pc.fill_null(pc.struct_field(rows["error"].filter(is_failed), "kind"), "unknown")
    lists = rows["conversations"].combine_chunks()
    of, spoken = pc.list_parent_indices(lists), pc.list_flatten(lists)
    is_kept = pc.equal(pc.struct_field(spoken, "status"), Verdict.KEPT.value)
    # As in quality/hallucination.py: those that came to an answer, about images whose objects are known.
    is_judged = pc.and_(is_kept, pc.is_valid(rows["objects_present"].combine_chunks()).take(of))
    judged = spoken.filter(is_judged)
    answered = judged.filter(pc.not_equal(pc.struct_field(judged, "vig_answer"), ""))
    return Tally(
        rows.num_rows,
        int(pc.sum(is_failed).as_py() or 0),
        len(pc.unique(of.filter(is_kept))),
        int(pc.sum(pc.struct_field(spoken, "num_tokens")).as_py() or 0),
        dict(Counter(reasons.to_pylist())),
        _mentions(pc.struct_field(answered, "vig_sentences")),
        _mentions(pc.struct_field(judged, "sentences")),
    )


def _mentions(sentences: pa.ListArray) -> Mentions:
    flat = pc.list_flatten(sentences)
    named, absent = (
        int(pc.sum(pc.list_value_length(pc.struct_field(flat, name))).as_py() or 0)
        for name in ("objects_named", "objects_absent")
    )
    return Mentions(named, absent)
