"""`vigc generate`: images in, one row of conversations per image out.

The same call begins a data set, continues one that was interrupted, and finds that a finished one is finished. Neither
torch nor Ray is imported where nothing is left to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vigc.jobs.generate.config import GenerateConfig, Mode
from vigc.jobs.generate.cost import BudgetSpent
from vigc.jobs.generate.plan import Plan, make_plan, runs_of
from vigc.jobs.generate.tracking import RunTracker
from vigc.jobs.generate.worker import Worker, WorkerSettings
from vigc.jobs.machine import git_commit, versions
from vigc.model.cores import num_cores
from vigc.platform.dataset.passes import Pass, write_json
from vigc.platform.images.decode import MAX_PIXELS, decode_batch
from vigc.platform.images.encode import encode_batch
from vigc.platform.pipeline import run as pipeline
from vigc.platform.pipeline.progress import OnProgress, Progress, tally_before
from vigc.platform.quality.presence import NameObjects
from vigc.platform.records import ConfigError, InputError, ModelError, TokenUsage
from vigc.platform.report import REPORT_FILE, write_report
from vigc.platform.report.summary import write_summary
from vigc.platform.sources import Source
from vigc.platform.tracking import FAILED, KILLED
from vigc.platform.vocabulary import SHIPPED


@dataclass(frozen=True)
class Outcome:
    """A finished pass. Figures of `all_runs` leave out runs that were killed before they could note them."""

    out: str
    number: str  # of the pass
    num_made: int  # images of this run
    seconds: float  # of this run, from the start of Ray to its end
    num_made_by_all_runs: int
    seconds_of_all_runs: float
    summary: dict[str, Any]  # as in summary.json
    report: str  # the address of report.html
    paid_hours: float  # of all runs: GPU-hours, or machine-hours where there is no GPU
    usage: TokenUsage  # of all runs: tokens that a server counted
    cost: float | None  # of both, where prices are known
    currency: str
    tracking: str | None  # the MLflow URI that this run was shown at
    note: str | None  # for the user
    is_idle: bool  # nothing was asked; `note` says why

    @property
    def images_per_s(self) -> float | None:
        return self.num_made_by_all_runs / self.seconds_of_all_runs if self.seconds_of_all_runs else None


def run_generate(
    config: GenerateConfig,
    *,
    on_plan: Callable[[Plan, Pass], None] | None = None,
    on_progress: Callable[[Progress], None] = lambda now: None,
    on_note: Callable[[str], None] = lambda message: None,
) -> Outcome:
    """Makes the rows that OUT still lacks, and sums up.

    Args:
        on_plan: called when all settings are found good and OUT is ready, before the first image.
        on_progress: called about once a second, from another thread.
        on_note: called with a line that a person should read, from any thread.
    Raises:
        VigcError: a setting, the images, the model or OUT cannot be used, or the run broke off.
        KeyboardInterrupt: with a note on how far the run is.
    """
    plan = make_plan(config)
    if plan.is_idle:
        return _outcome(plan, plan.store.existing_passes()[-1], 0, 0.0)
    if config.mode is Mode.OVERWRITE:
        plan.store.overwrite()
    if plan.existing is None or plan.existing.remaining():
        plan = plan.with_abilities()
    pass_ = plan.existing or plan.store.create_pass(plan.request, _source(plan), vocabulary=plan.vocabulary)
    if on_plan is not None:
        on_plan(plan, pass_)
    num_before, seconds = pass_.remaining(), 0.0
    note = _provenance(plan)
    watch = RunTracker(plan, pass_, note, runs_of(pass_), on_note)
    try:
        seconds = _run(plan, pass_, num_before, note, watch, on_progress)
    except BaseException as error:
        watch.close(KILLED if isinstance(error, KeyboardInterrupt | BudgetSpent) else FAILED)
        is_setting = isinstance(error, ConfigError | InputError | ModelError)
        if is_setting and plan.existing is None and pass_.remaining() == pass_.num_requested:
            plan.store.delete_pass(pass_)  # nothing came of it, and the corrected command will have other settings
        raise
    outcome = _outcome(plan, pass_, num_before - pass_.remaining(), seconds)
    watch.finish(outcome.summary)
    return outcome


def _outcome(plan: Plan, pass_: Pass, num_made: int, seconds: float) -> Outcome:
    summary = write_summary(plan.store)
    report = f"{plan.store}/{REPORT_FILE}"
    if num_made or REPORT_FILE not in plan.store.folder.names():
        write_report(plan.store, summary)
    ended = [run for run in runs_of(pass_) if run.get("seconds")]
    paid_hours = sum(run.get("paid_hours", 0.0) for run in ended)
    usage = tally_before(pass_.folder, pass_.ledger()).usage
    return Outcome(
        out=str(plan.store),
        number=pass_.number,
        num_made=num_made,
        seconds=seconds,
        num_made_by_all_runs=sum(run["num_made"] for run in ended),
        seconds_of_all_runs=sum(run["seconds"] for run in ended),
        summary=summary,
        report=report,
        paid_hours=paid_hours,
        usage=usage,
        cost=plan.prices.spent(usage, paid_hours),
        currency=plan.prices.currency,
        tracking=plan.tracking if num_made else None,
        note=plan.note,
        is_idle=plan.is_idle,
    )


def _run(
    plan: Plan,
    pass_: Pass,
    num_remaining: int,
    note: dict[str, Any],
    watch: RunTracker,
    on_progress: Callable[[Progress], None],
) -> float:
    """Runs the pipeline; where images remain, the run notes what it was and, at its end, how far it came."""
    started = time.monotonic()

    def report(now: Progress) -> bool:
        told = watch.report(now)
        on_progress(told)
        return plan.prices.is_spent(told)

    path = pass_.add_run(note) if num_remaining else None
    try:
        run_pipeline(plan, pass_, report if num_remaining else None)
    except pipeline.StoppedEarly as stopped:
        raise plan.prices.refusal(watch.spent or 0.0, str(stopped)) from stopped
    finally:
        seconds = time.monotonic() - started
        if path is not None:
            made = {"ended": _now(), "seconds": seconds, "num_made": num_remaining - pass_.remaining()}
            made["paid_hours"] = watch.paid_hours
            write_json(pass_.folder, path, note | made)
    return seconds if num_remaining else 0.0


def run_pipeline(
    plan: Plan, pass_: Pass, on_progress: OnProgress | None, worker: type[Worker] | None = None, *more: Any
) -> None:
    """All that is left of the pass, as the plan says.

    Args:
        worker: a class with more to it than the usual one; None: that one.
        more: what it is built with besides the settings.
    """
    graph = pipeline.Graph(
        worker=worker or Worker,
        worker_args=(WorkerSettings(plan.engine, plan.conversations, pass_.number, plan.vocabulary), *more),
        image_size=plan.image_side,
        decode=decode_batch if plan.image_form.side else encode_batch,
        num_slots=plan.engine.most_slots,
        min_actors=plan.config.actors[0],
        max_actors=plan.config.actors[1],
        gpus_per_actor=plan.hardware.gpus,
        max_pixels=plan.config.max_pixels or MAX_PIXELS,
        measure=None if plan.vocabulary is None else NameObjects(plan.vocabulary),
    )
    pipeline.run(pass_, graph, stall_timeout_s=plan.config.stall_timeout * 60, on_progress=on_progress)


def _provenance(plan: Plan) -> dict[str, Any]:
    return {
        "started": _now(),
        "config": plan.config.as_file() | _absolute(plan.config),
        "model": {"location": plan.model.location, "weights": plan.model.weights, "files": plan.model.files},
        "hardware": {
            "device": plan.hardware.device,
            "gpus_per_actor": plan.hardware.gpus,
            "num_threads": plan.engine.num_threads,
            "num_cores": num_cores(),
        },
        "server": _server(plan),
        "versions": versions(),
        "git_commit": git_commit(),
    }


def _server(plan: Plan) -> dict[str, Any] | None:
    """Of an endpoint: where it is, what it can, and what it says of itself."""
    endpoint = plan.engine.endpoint
    if endpoint is None or endpoint.abilities is None:
        return None
    return {"url": endpoint.url, "model": endpoint.model} | asdict(endpoint.abilities)


def _absolute(config: GenerateConfig) -> dict[str, str]:
    """The paths of prompt pack and vocabulary wherever a later pass is started."""
    files = {"prompts": config.prompts}
    if config.objects not in ("auto", "none", *SHIPPED):
        files["objects"] = config.objects
    return {name: str(Path(file).absolute()) for name, file in files.items() if file}


def _source(plan: Plan) -> Source:
    if plan.source is None:
        raise ValueError("a plan that continues no pass has a source")
    return plan.source


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
