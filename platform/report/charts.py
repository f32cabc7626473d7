"""The report's charts as shares of the width they are drawn on: funnel, intervals, openings, lengths, objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, log10
from typing import Any

import numpy as np

from vigc.platform.report.gather import MAX_WORDS, Gathered

NUM_OPENINGS, NUM_CATEGORIES, NUM_UNTRUE, NUM_PAIRS, NUM_REASONS = 12, 16, 10, 6, 8
NUM_BARS = 24
MIN_EXCESS = 1.25  # of a pair's lift in answers over that in images
LABELS = {"vig": "VIG", "vic": "final", "kept": "final, kept"}

Summary = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """One level of the funnel, and what is lost below it."""

    label: str
    num: int
    width: float
    lost: list[tuple[str, int]]


def funnel(summary: Summary) -> list[Step]:
    """Images asked for, read, talked about, kept; each level as wide as its share of the one that it is made of."""
    missing = summary["num_requested"] - summary["num_rows"] if summary["num_passes"] == 1 else 0
    asked = summary["num_requested"] if summary["num_passes"] == 1 else summary["num_rows"]
    made = summary["num_kept"] + summary["num_rejected"]
    reasons = Counter[str]()
    for kind in summary["kinds"].values():
        reasons.update(kind["rejected_by_reason"])
    failed = [*summary["failed_by_reason"].items()][:NUM_REASONS]
    return [
        Step("images asked for", asked, 100.0, [("not made yet", missing)] if missing else []),
        Step("images that could be read", summary["num_ok"], _percent(summary["num_ok"], asked), failed),
        Step("conversations made", made, 100.0, []),
        Step(
            "conversations kept",
            summary["num_kept"],
            _percent(summary["num_kept"], made),
            reasons.most_common(NUM_REASONS),
        ),
    ]


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and its interval, in percent of the strip."""

    at: float
    low: float
    width: float


@dataclass(frozen=True, slots=True)
class Strip:
    kind: str
    answer: str
    label: str
    found: Mapping[str, float] | None
    mark: Interval | None
    is_first: bool  # of its kind


@dataclass(frozen=True, slots=True)
class MetricChart:
    title: str
    note: str
    is_share: bool
    rows: list[Strip]


METRICS = (
    ("chair_s", "Answers that name an absent object", "lower is better", True),
    ("chair_i", "Absent among the objects named", "lower is better", True),
    ("recall", "Present objects that are named", "higher is better", True),
    ("mean_words", "Words of an answer", "", False),
)


def metrics(summary: Summary) -> list[MetricChart]:
    """The charts of hallucination; none where it was not measured."""
    found = summary["hallucination"]
    if found is None or not found["kinds"]:
        return []
    made = []
    for name, title, note, is_share in METRICS:
        rows = [
            (kind, answer, answers[answer][name])
            for kind, answers in found["kinds"].items()
            for answer in LABELS
            if answer in answers and not (answer == "kept" and not _differs(answers))
        ]
        top = max((value["high"] for _, _, value in rows if value), default=0) or 1
        top = min(1.0, ceil(top * 10) / 10) if is_share else top
        strips = [
            Strip(kind, answer, LABELS[answer], value, _mark(value, top), n == 0 or rows[n - 1][0] != kind)
            for n, (kind, answer, value) in enumerate(rows)
        ]
        scale = f"{note}{' · ' if note else ''}0 to {f'{top:.0%}' if is_share else f'{top:.0f}'}"
        made.append(MetricChart(title, scale, is_share, strips))
    return made


def has_kept(summary: Summary) -> bool:
    return any(_differs(answers) for answers in (summary["hallucination"] or {"kinds": {}})["kinds"].values())


def _differs(answers: Mapping[str, Any]) -> bool:
    """Whether verdicts have taken some of the answers away."""
    return "kept" in answers and "vic" in answers and answers["kept"]["num_texts"] != answers["vic"]["num_texts"]


def _mark(value: Mapping[str, float] | None, top: float) -> Interval | None:
    if value is None:
        return None
    at, low, high = (100 * min(value[name] / top, 1.0) for name in ("value", "low", "high"))
    return Interval(min(at, 99.0), low, max(high - low, 0.5))


@dataclass(frozen=True, slots=True)
class Bar:
    label: str
    width: float
    value: str
    style: str


def openings(found: Gathered) -> tuple[list[Bar], str]:
    total = max(1, found.num_questions)
    most = found.openings.most_common(NUM_OPENINGS)
    top = most[0][1] if most else 1
    bars = [Bar(f"{words} …", 100 * num / top, f"{100 * num / total:.1f} %", "fill") for words, num in most]
    covered = sum(num for _, num in most) / total
    return bars, f"{len(found.openings):,} different; these are {covered:.0%} of {found.num_questions:,}"


@dataclass(frozen=True, slots=True)
class LengthBar:
    x: float
    width: float  # of each of the two
    vig: float  # heights, 0 to 48
    vic: float
    num_vig: int
    num_vic: int
    span: str


@dataclass(frozen=True, slots=True)
class Lengths:
    bars: list[LengthBar]
    ticks: list[str]
    label: str


def lengths(found: Gathered) -> Lengths:
    vig, vic = found.words["vig"], found.words["vic"]
    both = vig + vic
    last = int(np.flatnonzero(both)[-1]) if both.any() else 1
    step = max(1, _round_up((last + 1) / NUM_BARS))
    num = -(-(last + 1) // step)
    edges = np.arange(num + 1) * step
    counts = [[int(words[low:high].sum()) for low, high in pairwise(edges)] for words in (vig, vic)]
    top = max(1, *counts[0], *counts[1])
    width = 100 / num
    bars = [
        LengthBar(n * width + 0.08 * width, 0.42 * width, 48 * a / top, 48 * b / top, a, b, _span(n * step, step))
        for n, (a, b) in enumerate(zip(*counts, strict=True))
    ]
    longest = f"{num * step}{'+' if last >= MAX_WORDS else ''}"
    medians = [_median(words) for words in (vig, vic)]
    label = f"Median: VIG {medians[0]} words, final {medians[1]} words; each bar spans {step}."
    return Lengths(bars, ["0", str(num * step // 2), longest], label)


def _span(low: int, step: int) -> str:
    return str(low) if step == 1 else f"{low} to {low + step - 1}"


def _round_up(value: float) -> int:
    """Rounds up to 1, 2 or 5 times a power of ten."""
    scale = 10 ** int(log10(max(value, 1)))
    return int(next(scale * one for one in (1, 2, 5, 10) if scale * one >= value))


def _median(counts: Any) -> int:
    total = int(counts.sum())
    return int(np.searchsorted(np.cumsum(counts), (total + 1) // 2)) if total else 0


@dataclass(frozen=True, slots=True)
class Covered:
    category: str
    present: int
    named: int
    present_width: float
    named_width: float


def coverage(found: Gathered) -> tuple[list[Covered], str]:
    """The commonest objects: in how many images they are, how often kept answers name them."""
    most = [category for category, _ in (found.present or found.named).most_common(NUM_CATEGORIES)]
    top_present = max((found.present[one] for one in most), default=0) or 1
    top_named = max((found.named[one] for one in most), default=0) or 1
    rows = [
        Covered(
            one,
            found.present[one],
            found.named[one],
            100 * found.present[one] / top_present,
            100 * found.named[one] / top_named,
        )
        for one in most
    ]
    never = sum(1 for category in found.present if not found.named[category])
    note = f"{len(found.present):,} kinds of object annotated, {never:,} of them never named"
    return rows, note


def untrue(found: Gathered) -> list[Bar]:
    """What VIG names most often though it is not there, and how much of that is left."""
    most = found.absent["vig"].most_common(NUM_UNTRUE)
    top = most[0][1] if most else 1
    left = found.absent["vic"]
    return [Bar(category, 100 * num / top, f"{num:,} → {left[category]:,}", "bad") for category, num in most]


def habits(summary: Summary) -> list[Mapping[str, Any]]:
    """Pairs of objects that answers name together clearly more often than images have them together."""
    found = (summary["hallucination"] or {}).get("pairs_named_more_than_annotated", [])
    return [one for one in found if one["lift_vic"] >= MIN_EXCESS * one["lift_annotated"]][:NUM_PAIRS]


def tiles(summary: Summary) -> Sequence[Mapping[str, str]]:
    """The few numbers that one looks for first."""
    made = summary["num_kept"] + summary["num_rejected"]
    shown = [
        {"value": f"{summary['num_ok']:,}", "what": f"images read, of {summary['num_rows']:,}", "style": ""},
        {"value": f"{summary['num_kept']:,}", "what": f"conversations kept, of {made:,}", "style": ""},
    ]
    for name, title in (("chair_s", "answers naming an absent object"), ("recall", "present objects named")):
        if change := _over_kinds(summary, name):
            before, after = change
            value = f"{100 * before:.1f} → {100 * after:.1f} %"
            shown.append({"value": value, "what": f"{title}, VIG → VIC", "style": "key" if name == "chair_s" else ""})
    return shown


def _over_kinds(summary: Summary, name: str) -> tuple[float, float] | None:
    """A rate before and after, over all kinds that have both, each weighted by what it divides by."""
    below = {"chair_s": "num_texts", "recall": "num_present"}[name]
    sums = {"vig": [0.0, 0.0], "vic": [0.0, 0.0]}
    for answers in (summary["hallucination"] or {"kinds": {}})["kinds"].values():
        if all(answers.get(answer, {}).get(name) for answer in sums):
            for answer, (above, total) in sums.items():
                weight = answers[answer][below]
                sums[answer] = [above + answers[answer][name]["value"] * weight, total + weight]
    if not sums["vig"][1] or not sums["vic"][1]:
        return None
    return sums["vig"][0] / sums["vig"][1], sums["vic"][0] / sums["vic"][1]


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0
