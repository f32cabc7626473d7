"""What a data set holds, in figures, for `summary.json` and the table at the end of a run. One pass over the view,
whatever its size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vigc.platform.passes import write_json
from vigc.platform.records import RowStatus, Verdict
from vigc.platform.store import Store


def summarise(store: Store) -> dict[str, Any]:
    """Counts of rows and, for each kind, of conversations; lengths in words.

    `share_changed_by_vic` is the share of conversations whose final answer differs from VIG's.
    """
    rows: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    kinds: dict[str, _Tally] = {}
    for row in store.rows(["status", "error", "conversations"]):
        rows[row["status"]] += 1
        if row["status"] == RowStatus.FAILED:
            failures[(row["error"] or {}).get("kind") or "unknown"] += 1
        for spoken in row["conversations"]:
            kinds.setdefault(spoken["kind"], _Tally()).add(spoken)
    by_kind = {kind: tally.figures() for kind, tally in sorted(kinds.items())}
    return {
        "num_requested": sum(one.num_requested for one in store.existing_passes()),
        "num_rows": rows.total(),
        "num_ok": rows[RowStatus.OK],
        "num_failed": rows[RowStatus.FAILED],
        "failed_by_reason": dict(failures.most_common()),
        "num_kept": sum(figures["num_kept"] for figures in by_kind.values()),
        "num_rejected": sum(figures["num_rejected"] for figures in by_kind.values()),
        "num_tokens": sum(figures["num_tokens"] for figures in by_kind.values()),
        "kinds": by_kind,
    }


def write_summary(store: Store) -> Path:
    path = store.path / "summary.json"
    write_json(path, summarise(store))
    return path


@dataclass
class _Tally:
    num: int = 0
    num_kept: int = 0
    num_changed: int = 0
    num_tokens: int = 0
    words_vig: int = 0
    words_final: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, spoken: Mapping[str, Any]) -> None:
        self.num += 1
        self.num_kept += spoken["status"] == Verdict.KEPT
        self.num_changed += spoken["answer"] != spoken["vig_answer"]
        self.num_tokens += spoken["num_tokens"]
        self.words_vig += len(spoken["vig_answer"].split())
        self.words_final += len(spoken["answer"].split())
        if spoken["status"] == Verdict.REJECTED:
            self.reasons.update(spoken["reasons"])

    def figures(self) -> dict[str, Any]:
        return {
            "num_kept": self.num_kept,
            "num_rejected": self.num - self.num_kept,
            "rejected_by_reason": dict(self.reasons.most_common()),
            "mean_words_vig": self.words_vig / self.num,
            "mean_words_final": self.words_final / self.num,
            "share_changed_by_vic": self.num_changed / self.num,
            "num_tokens": self.num_tokens,
        }
