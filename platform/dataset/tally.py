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

from vigc.platform.records import RowStatus, TokenUsage, Verdict


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
    tokens: int = 0  # decoded for conversations
    failed_by_reason: dict[str, int] = field(default_factory=dict)
    vig: Mentions = Mentions()  # in VIG's answers about annotated images
    vic: Mentions = Mentions()  # in the final answers about the same
    usage: TokenUsage = field(default_factory=TokenUsage)  # what servers counted

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
            self.usage + other.usage,
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
        usage = {"usage": TokenUsage(**values["usage"])} if "usage" in values else {}
        return cls(**known | mentions | usage)


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
        _sum(is_failed),
        len(pc.unique(of.filter(is_kept))),
        _sum(pc.struct_field(spoken, "num_tokens")),
        dict(Counter(reasons.to_pylist())),
        _mentions(pc.struct_field(answered, "vig_sentences")),
        _mentions(pc.struct_field(judged, "sentences")),
        TokenUsage(*(_sum(pc.struct_field(rows["usage"], name)) for name in ("num_prompt", "num_completion"))),
    )


def _mentions(sentences: pa.ListArray) -> Mentions:
    flat = pc.list_flatten(sentences)
    named, absent = (
        _sum(pc.list_value_length(pc.struct_field(flat, name))) for name in ("objects_named", "objects_absent")
    )
    return Mentions(named, absent)


def _sum(values: pa.Array | pa.ChunkedArray) -> int:
    return int(pc.sum(values).as_py() or 0)
