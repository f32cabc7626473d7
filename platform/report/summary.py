"""What a data set holds, in numbers, for `summary.json` and the table at the end of a run. One pass over the view,
whatever its size, a column at a time.

`hallucination` is there where objects are named and images annotated (quality/hallucination.py); `verdicts` says what
was decided after the rows were made, and by what.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vigc.platform.dataset.caution import caution
from vigc.platform.dataset.layout import SUMMARY_FILE
from vigc.platform.dataset.passes import write_json
from vigc.platform.dataset.store import Pass, Store
from vigc.platform.dataset.verdicts import NEEDED, VerdictFile
from vigc.platform.quality.hallucination import Hallucination
from vigc.platform.records import RowStatus, Verdict
from vigc.platform.vocabulary import Vocabulary


def summarise(store: Store) -> dict[str, Any]:
    """Counts of rows and, for each kind, of conversations; lengths in words.

    `share_changed_by_vic` is the share of conversations whose final answer differs from VIG's, of those that VIG
    answered, or null without any.
    """
    rows: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    kinds: dict[str, _Tally] = {}
    passes = store.existing_passes()
    vocabularies = vocabularies_of(passes)
    hallucination = Hallucination(vocabularies) if vocabularies else None
    verdicts = store.verdicts()
    answered: Counter[str] = Counter()  # conversations that came to an answer, by pass
    for committed in store.undecided_batches(["status", "error", *NEEDED, *(["objects_present"] * bool(vocabularies))]):
        batch = verdicts.applied(committed)
        _count_answered(committed, answered)
        if hallucination is not None:
            hallucination.add(committed, batch)
        rows.update(_counts(batch["status"]))
        failed = batch.filter(pc.equal(batch["status"], RowStatus.FAILED.value))
        failures.update(_counts(pc.fill_null(pc.struct_field(failed["error"], "kind"), "unknown")))
        spoken = pa.RecordBatch.from_struct_array(pc.list_flatten(batch["conversations"]))
        for kind in _counts(spoken["kind"]):
            kinds.setdefault(kind, _Tally()).add(spoken.filter(pc.equal(spoken["kind"], kind)))
    by_kind = {kind: tally.counts() for kind, tally in sorted(kinds.items())}
    return {
        "caution": caution(passes),  # what a reader must know before anything else; null: nothing
        "num_passes": len(passes),
        "num_requested": sum(one.num_requested for one in passes),  # an image counts in each pass that was asked of it
        "num_rows": rows.total(),
        "num_ok": rows[RowStatus.OK],
        "num_failed": rows[RowStatus.FAILED],
        "failed_by_reason": dict(failures.most_common()),
        "num_kept": sum(counts["num_kept"] for counts in by_kind.values()),
        "num_rejected": sum(counts["num_rejected"] for counts in by_kind.values()),
        "num_tokens": sum(counts["num_tokens"] for counts in by_kind.values()),
        "kinds": by_kind,
        "hallucination": hallucination.metrics() if hallucination is not None else None,
        "verdicts": [
            {"by": one.by, "number": one.number, "made_since": _made_since(one, answered), **one.about}
            for one in verdicts.files
        ],
    }


def _count_answered(rows: pa.RecordBatch, answered: Counter[str]) -> None:
    spoken = rows["conversations"]
    is_answered = pc.equal(spoken.flatten().field("status"), Verdict.KEPT.value)
    answered.update(_counts(rows["pass"].take(pc.list_parent_indices(spoken)).filter(is_answered)))


def _made_since(file: VerdictFile, answered: Counter[str]) -> int:
    """Conversations that were not there yet when it was decided."""
    judged = file.about.get("judged_of_pass")
    return 0 if judged is None else sum(max(0, num - judged.get(name, 0)) for name, num in answered.items())


def vocabularies_of(passes: Iterable[Pass]) -> list[Vocabulary]:
    """The vocabularies that the passes' objects are named in."""
    return [vocabulary for one in passes if (vocabulary := one.vocabulary()) is not None]


def write_summary(store: Store) -> dict[str, Any]:
    """Writes summary.json, and returns what it holds."""
    summary = summarise(store)
    write_json(store.folder, SUMMARY_FILE, summary)
    return summary


@dataclass
class _Tally:
    num: int = 0
    num_kept: int = 0
    num_changed: int = 0
    num_with_vig: int = 0  # of which VIG answered, too
    num_tokens: int = 0
    words_vig: int = 0
    words_final: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, spoken: pa.RecordBatch) -> None:
        """Adds conversations of one kind."""
        is_kept = pc.equal(spoken["status"], Verdict.KEPT.value)
        self.num += spoken.num_rows
        self.num_kept += pc.sum(is_kept).as_py()
        with_vig = pc.not_equal(spoken["vig_answer"], "")
        changed = pc.and_(with_vig, pc.not_equal(spoken["answer"], spoken["vig_answer"]))
        self.num_with_vig += pc.sum(with_vig).as_py()
        self.num_changed += pc.sum(changed).as_py()
        self.num_tokens += pc.sum(spoken["num_tokens"]).as_py()
        self.words_vig += _num_words(spoken["vig_answer"])
        self.words_final += _num_words(spoken["answer"])
        self.reasons.update(_counts(pc.list_flatten(spoken["reasons"].filter(pc.invert(is_kept)))))

    def counts(self) -> dict[str, Any]:
        return {
            "num_kept": self.num_kept,
            "num_rejected": self.num - self.num_kept,
            "rejected_by_reason": dict(self.reasons.most_common()),
            "mean_words_vig": self.words_vig / self.num,
            "mean_words_final": self.words_final / self.num,
            "share_changed_by_vic": self.num_changed / self.num_with_vig if self.num_with_vig else None,
            "num_tokens": self.num_tokens,
        }


def _counts(values: pa.Array) -> dict[str, int]:
    counted = pc.value_counts(values)
    return dict(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True))


def _num_words(texts: pa.Array) -> int:
    return int(pc.sum(pc.count_substring_regex(texts, r"\S+")).as_py() or 0)
