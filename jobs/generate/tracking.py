"""What a run shows of itself beside the terminal: MLflow has its history, Prometheus its present, and both its cost.

A data set's pass is one MLflow run, whatever interrupted it; each `vigc generate` that worked on it is an attempt, a
child of that run. Nothing here can stop a run or wait for anything.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vigc.jobs.generate.plan import Plan
from vigc.platform.dataset.layout import SUMMARY_FILE
from vigc.platform.dataset.passes import Pass
from vigc.platform.dataset.tally import Tally
from vigc.platform.pipeline.metrics import (
    CHAIR,
    COST,
    DONE,
    FAILED,
    IMAGES,
    OF_DRIVER,
    REQUESTED,
    SECONDS_LEFT,
    TOKENS,
    Meters,
)
from vigc.platform.pipeline.progress import Progress
from vigc.platform.pipeline.ray_session import running_ray
from vigc.platform.report import REPORT_FILE
from vigc.platform.tracking import FINISHED, DataUsed, Tracking

EXPERIMENT = "vigc generate"
TRACK_S = 10.0  # between metrics for MLflow
PAID_S = 10.0  # between looks at what the cluster has


class RunTracker:
    """Of one run. `report` is what `pipeline.run` calls about once a second, from a thread of its own.

    Args:
        note: what the run noted about itself, as in runs/NNN.json.
        earlier: such notes of the runs before it, oldest first.
        on_note: called with a line that a person should read.
    """

    def __init__(
        self,
        plan: Plan,
        pass_: Pass,
        note: Mapping[str, Any],
        earlier: Iterable[Mapping[str, Any]],
        on_note: Callable[[str], None],
    ) -> None:
        self._plan, self._pass, self._note, self._on_note = plan, pass_, note, on_note
        self._paid_before = sum(run.get("paid_hours", 0.0) for run in earlier)
        self._paid = _Paid()
        self.spent: float | None = None  # on the pass, where prices are known
        self._tracking: Tracking | None = None
        self._meters: Meters | None = None
        self._first: Tally | None = None  # before this run
        self._sent = (float("-inf"), Tally())  # when metrics last went to MLflow, and what was done then

    @property
    def paid_hours(self) -> float:
        """Of this run: GPU-hours, or machine-hours where there is no GPU."""
        return self._paid.hours

    def report(self, now: Progress) -> Progress:
        """The progress with its cost. The first report comes when the lock is held, so that nobody else tells of this
        pass.
        """
        self._paid.look()
        now = self._plan.prices.told(now, self._paid_before + self._paid.hours, self._paid.num_held)
        self.spent = now.spent
        if self._first is None:
            self._first = now.tally
            self._sent = (time.monotonic(), now.tally)
            self._tracking = self._new_tracking()
        is_news = now.tally != self._sent[1]
        if time.monotonic() - self._sent[0] >= TRACK_S or (is_news and now.done == now.total):
            self._track(now)
        if running_ray() is not None:
            self._measure(now, self._first)
        return now

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Every image has its row: the summary's rates, the summary and the report go to MLflow, too."""
        if self._tracking is None:
            return
        self._tracking.metrics(summary["num_rows"], _rates(summary))
        with tempfile.TemporaryDirectory(prefix="vigc-") as scratch:
            for name in (SUMMARY_FILE, REPORT_FILE):
                path = Path(scratch) / name
                path.write_bytes(self._plan.store.folder.read(name))
                self._tracking.file(path)
            self.close(FINISHED)

    def close(self, status: str) -> None:
        if self._tracking is not None and (lost := self._tracking.close(status)):
            self._on_note(f"MLflow never took {lost} messages; {self._plan.store} has all that counts.")

    def _new_tracking(self) -> Tracking | None:
        plan, one = self._plan, self._pass
        if plan.tracking is None:
            return None
        asked = json.dumps([one.request, asdict(one.layout)], sort_keys=True).encode()
        place = str(plan.store).rstrip("/").rpartition("/")[2]
        return Tracking(
            plan.tracking,
            experiment=EXPERIMENT,
            name=place if one.number == "001" else f"{place}, pass {one.number}",
            folder=one.folder,
            params={**one.request, "out": str(plan.store), "images": one.num_requested},
            attempt={name: self._note[name] for name in ("config", "hardware", "versions", "git_commit")},
            data=[DataUsed(plan.description, hashlib.sha256(asked).hexdigest(), (plan.description,), "generation")],
            description=f"`{plan.store}`, pass {one.number}: {plan.description}",
            on_note=self._on_note,
        )

    def _track(self, now: Progress) -> None:
        if self._tracking is None:
            return
        tally, (then, before) = now.tally, self._sent
        self._sent = (time.monotonic(), tally)
        seconds = max(self._sent[0] - then, 1e-3)
        values: dict[str, float | None] = {
            "images_done": tally.rows,
            "images_kept": tally.kept,
            "images_failed": tally.failed,
            "tokens": tally.tokens,
            "images_per_s": (tally.rows - before.rows) / seconds,
            "tokens_per_s": (tally.tokens - before.tokens) / seconds,
            "chair_i.vig": tally.vig.chair_i,
            "chair_i.vic": tally.vic.chair_i,
            "seconds_left": now.seconds_left,
            "prompt_tokens": tally.usage.num_prompt or None,
            "completion_tokens": tally.usage.num_completion or None,
            "cost": now.spent,
            **{f"failed.{reason}": number for reason, number in tally.failed_by_reason.items()},
        }
        self._tracking.metrics(tally.rows, {name: value for name, value in values.items() if value is not None})

    def _measure(self, now: Progress, first: Tally) -> None:
        if self._meters is None:
            self._meters = Meters(OF_DRIVER, self._pass.folder.uri)
        tally, meters = now.tally, self._meters
        meters.set(IMAGES, tally.rows - first.rows)
        meters.set(TOKENS, tally.tokens - first.tokens)
        for reason, number in tally.failed_by_reason.items():
            meters.set(FAILED, number - first.failed_by_reason.get(reason, 0), reason=reason)
        meters.set(DONE, now.done)
        meters.set(REQUESTED, now.total)
        for answer, mentions in (("vig", tally.vig), ("vic", tally.vic)):
            if mentions.chair_i is not None:
                meters.set(CHAIR, mentions.chair_i, answer=answer)
        if now.seconds_left is not None:
            meters.set(SECONDS_LEFT, now.seconds_left)
        if now.spent is not None:
            meters.set(COST, now.spent)


class _Paid:
    """Hours of the cluster's GPUs, or of its machines where it has none, while this run holds it."""

    def __init__(self) -> None:
        self.hours = 0.0
        self._looked, self.num_held = float("-inf"), 0.0
        self._then: float | None = None

    def look(self) -> None:
        now = time.monotonic()
        if self._then is not None:
            self.hours += self.num_held * (now - self._then) / 3600
        self._then = now
        ray = running_ray()
        if ray is None:
            self.num_held = 0.0
        elif now - self._looked >= PAID_S or not self.num_held:
            self._looked = now
            self.num_held = ray.cluster_resources().get("GPU", 0.0) or sum(node["Alive"] for node in ray.nodes())


def _rates(summary: Mapping[str, Any]) -> dict[str, float]:
    """The summary's metrics of hallucination, VIG's and the final answers', for each kind."""
    found: dict[str, float] = {"conversations_kept": summary["num_kept"]}
    for kind, answers in ((summary["hallucination"] or {}).get("kinds") or {}).items():
        for answer, chair in answers.items():
            for name in ("chair_i", "chair_s", "recall"):
                if chair[name] is not None:
                    found[f"{name}.{kind}.{answer}"] = chair[name]["value"]
    return found
