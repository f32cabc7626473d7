"""`vigc generate`: images in, one row of conversations per image out.

The same call begins a data set, continues one that was interrupted, and finds that a finished one is finished. Neither
torch nor Ray is imported where nothing is left to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from vigc.jobs.config import GenerateConfig
from vigc.jobs.machine import git_commit, num_cores, versions
from vigc.jobs.plan import Plan, make_plan, runs_of
from vigc.jobs.worker import Worker, WorkerSettings
from vigc.platform import pipeline
from vigc.platform.passes import write_json
from vigc.platform.pipeline import Progress
from vigc.platform.records import ConfigError, InputError, ModelError
from vigc.platform.store import Pass
from vigc.platform.summary import summarise


@dataclass(frozen=True)
class Outcome:
    """A finished pass. Figures of `all_runs` leave out runs that were killed before they could note them."""

    out: Path
    number: str  # of the pass
    num_made: int  # images of this run
    seconds: float  # of this run, from the start of Ray to its end
    num_made_by_all_runs: int
    seconds_of_all_runs: float
    summary: dict[str, Any]  # as in summary.json

    @property
    def images_per_s(self) -> float | None:
        return self.num_made_by_all_runs / self.seconds_of_all_runs if self.seconds_of_all_runs else None


def run_generate(
    config: GenerateConfig,
    *,
    overwrite: bool = False,
    resume: bool = False,
    on_plan: Callable[[Plan], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Makes the rows that OUT still lacks, and sums up.

    Args:
        overwrite: replace the data set that is there.
        resume: insist that there is one to continue.
        on_plan: called when all settings are found good and OUT is ready, before the first image.
        on_progress: called about once a second, from another thread.
    Raises:
        VigcError: a setting, the images, the model or OUT cannot be used, or the run broke off.
        KeyboardInterrupt: with a note on how far the run is.
    """
    plan = make_plan(config, overwrite=overwrite, resume=resume)
    if overwrite:
        plan.store.overwrite()
    pass_ = plan.existing or plan.store.create_pass(plan.request, islice(plan.source, config.limit))
    if on_plan is not None:
        on_plan(plan)
    num_before, seconds = pass_.remaining(), 0.0
    try:
        seconds = _run(plan, pass_, num_before, on_progress)
    except (ConfigError, InputError, ModelError):
        if plan.existing is None and pass_.remaining() == pass_.num_requested:
            plan.store.overwrite()  # nothing came of it, and the mended command will be another request
        raise
    summary = summarise(plan.store)
    write_json(plan.store.path / "summary.json", summary)
    ended = [run for run in runs_of(pass_) if run.get("seconds")]
    return Outcome(
        out=plan.store.path,
        number=pass_.number,
        num_made=num_before - pass_.remaining(),
        seconds=seconds,
        num_made_by_all_runs=sum(run["num_made"] for run in ended),
        seconds_of_all_runs=sum(run["seconds"] for run in ended),
        summary=summary,
    )


def _run(plan: Plan, pass_: Pass, num_remaining: int, on_progress: Callable[[Progress], None] | None) -> float:
    """Runs the pipeline; where images remain, the run notes what it was and, at its end, how far it came."""
    started = time.monotonic()
    note = _provenance(plan)
    path = pass_.add_run(note) if num_remaining else None
    try:
        pipeline.run(
            pass_,
            worker=Worker,
            worker_args=(_worker_settings(plan, pass_),),
            image_size=plan.model.image_size,
            num_slots=plan.num_slots,
            actors=plan.config.actors,
            gpus_per_actor=plan.gpus_per_actor,
            on_progress=on_progress if num_remaining else None,
        )
    finally:
        seconds = time.monotonic() - started
        if path is not None:
            write_json(
                path, note | {"ended": _now(), "seconds": seconds, "num_made": num_remaining - pass_.remaining()}
            )
    return seconds if num_remaining else 0.0


def _worker_settings(plan: Plan, pass_: Pass) -> WorkerSettings:
    return WorkerSettings(
        model=plan.model.location,
        device=plan.device,
        dtype=plan.dtype,
        engine=plan.config.engine,
        num_slots=plan.num_slots,
        num_threads=plan.num_threads,
        pack=plan.pack,
        policy=plan.policy,
        kinds=tuple(plan.config.kinds),
        seed=plan.config.seed,
        request=pass_.number,
    )


def _provenance(plan: Plan) -> dict[str, Any]:
    return {
        "started": _now(),
        "config": plan.config.model_dump(mode="json", by_alias=True),
        "model": {"location": plan.model.location, "weights": plan.model.weights, "files": plan.model.files},
        "hardware": {
            "device": plan.device,
            "gpus_per_actor": plan.gpus_per_actor,
            "num_threads": plan.num_threads,
            "num_cores": num_cores(),
        },
        "versions": versions(),
        "git_commit": git_commit(),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
