"""What the terminal says about a run: what is about to happen, how far it is, and what came of it."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from vigc.jobs.dataset.show import render_row
from vigc.jobs.dataset.tables import hallucination_tables
from vigc.jobs.generate.plan import Plan
from vigc.jobs.generate.run import Outcome
from vigc.platform.dataset.caution import caution
from vigc.platform.dataset.passes import Pass
from vigc.platform.dataset.store import Store
from vigc.platform.pipeline.run import Progress
from vigc.platform.records import Kind, RowStatus, Verdict

PLAIN_INTERVAL_S = 30.0
NUM_SAMPLES = 5
SAMPLE_POOL = 256  # rows that the samples are chosen from


class ProgressLine:
    """A bar on a terminal; elsewhere a plain line now and then. `report` may be called from any thread."""

    def __init__(self, console: Console, on_note: Callable[[str], None] | None = None) -> None:
        """
        Args:
            on_note: gets notes in the console's place, where that is quiet.
        """
        self._console = console
        self.note = on_note or self._print_note
        self._said = time.monotonic()
        self._says_stopping = False
        columns = (
            TextColumn("{task.description}"),
            BarColumn(24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rest]}"),
        )
        self._bar = Bar(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("starting Ray and the model", total=None, rest="")

    def _print_note(self, message: str) -> None:
        self._console.print(message, soft_wrap=True, markup=False)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The bar appears with the first report and is gone when the block ends."""
        try:
            yield
        finally:
            self._bar.stop()

    def report(self, now: Progress) -> None:
        description = "starting Ray and the model" if now.images_per_s is None else "images"
        if now.is_stopping and not self._says_stopping:
            self._says_stopping = True
            self._console.print("Stopping when the images that are under way are done; Ctrl-C again stops at once.")
        self._bar.update(self._task, description=description, completed=now.done, total=now.total, rest=figures(now))
        self._bar.start()
        if not self._console.is_terminal and time.monotonic() - self._said >= PLAIN_INTERVAL_S:
            self._said = time.monotonic()
            self._console.print(f"{now.done} of {now.total} images, {figures(now)}", soft_wrap=True)


def figures(now: Progress) -> str:
    parts = [f"{now.kept} kept", f"{now.failed} failed"]
    if now.images_per_s is not None:
        parts.insert(0, f"{now.images_per_s:.1f} images/s")
    if now.seconds_left is not None:
        parts.append(f"{duration(now.seconds_left)} left")
    if now.spent is not None:
        to_go = "" if now.to_spend is None else f", {money(now.to_spend)} to go"
        parts.append(f"{money(now.spent)} spent{to_go}")
    return ", ".join(parts)


def money(amount: float) -> str:
    """Two decimals, or two digits where there is less than a hundredth."""
    return f"{amount:.2f}" if amount >= 0.01 or not amount else f"{amount:.2g}"


def duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def say_plan(console: Console, plan: Plan, pass_: Pass) -> None:
    config = plan.config
    least, most = config.actors
    actors = _number(most, "actor") if least == most else f"{least} to {most} actors"
    _say(
        console,
        ("images", f"{plan.description}: {_number(pass_.num_requested, 'image')}"),
        ("out", f"{plan.store}  ({_state(plan, pass_)})"),
        ("model", f"{plan.model.name}, {_where(plan)}, {actors}"),
        *([("engine", f"{plan.engine.engine}: {plan.why_engine}")] if plan.why_engine else []),
        *_server(plan),
        *_prices(plan),
        ("objects", _objects(plan)),
        ("asked for", f"{', '.join(config.kinds)}; policy {plan.conversations.policy.name}, seed {config.seed}"),
    )
    say_caution(console, caution([pass_]))
    console.print()


def _where(plan: Plan) -> str:
    """Where the model runs, and how much at once."""
    engine = plan.engine
    if engine.endpoint is not None:
        at_once = engine.endpoint.concurrency
        requests = _number(at_once, "request") if at_once else "as many requests as it answers well"
        if engine.engine == "endpoint":
            return f"at {engine.endpoint.url}; {requests} at once"
        return f"{plan.hardware}, {engine.dtype}; a server of {engine.engine} for each actor, {requests} at once"
    slots = f", {'' if engine.num_slots else 'up to '}{_number(engine.most_slots, 'slot')}"
    return f"{plan.hardware}, {engine.dtype}; {engine.engine} engine{slots if engine.engine == 'continuous' else ''}"


def _server(plan: Plan) -> Iterator[tuple[str, str]]:
    """What an endpoint can, one line for each ability."""
    endpoint = plan.engine.endpoint
    for number, (ability, answer) in enumerate(endpoint.abilities.lines() if endpoint and endpoint.abilities else ()):
        yield ("server" if not number else ""), f"{ability}: {answer}"


def _prices(plan: Plan) -> Iterator[tuple[str, str]]:
    prices, parts = plan.prices, []
    if prices.tokens is not None:
        parts.append(f"{prices.tokens.input:g} for a million tokens read, {prices.tokens.output:g} written")
    if prices.per_hour is not None:
        parts.append(f"{prices.per_hour:g} an hour")
    if prices.budget is not None:
        parts.append(f"a budget of {prices.budget:g} for this pass")
    if parts:
        yield "prices", f"{'; '.join(parts)}; in {prices.currency}"


def _objects(plan: Plan) -> str:
    if plan.vocabulary is not None:
        return f"named in the vocabulary {plan.vocabulary.name} ({len(plan.vocabulary.categories)} categories)"
    without = "" if plan.config.objects == "none" else "; the images have no annotations"
    return f"not named{without}"


def _number(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _state(plan: Plan, pass_: Pass) -> str:
    number = f"pass {pass_.number}, " if len(plan.store.passes()) > 1 else ""
    if plan.existing is None:
        return f"{number}new"
    total, remaining = pass_.num_requested, pass_.remaining()
    state = "finished" if not remaining else f"continued, {total - remaining} of {total} images done"
    if plan.num_in_source not in (None, total):
        now = plan.num_in_source
        state += f"; the source now has {now} images, but the data set keeps to the {total} it was begun with"
    return f"{number}{state}"


def say_outcome(console: Console, outcome: Outcome) -> None:
    """The table, the samples, the paths, and what to try next."""
    for row in samples(Store(outcome.out)):
        console.print(render_row(row, console))
    _say_figures(console, outcome)
    out = shlex.quote(str(outcome.out))
    if outcome.note:
        _say(console, ("note", outcome.note))
    say_caution(console, outcome.summary["caution"])
    _say(
        console,
        ("files", f"{outcome.out}/passes/{outcome.number}/rows/*.parquet"),
        ("summary", f"{outcome.out}/summary.json"),
        ("report", outcome.report),
        *([("mlflow", _shown_by(outcome.tracking))] if outcome.tracking else []),
        *(
            ("try", command)
            for command in (f"vigc show {out}", f"vigc verify {out}", f"vigc export {out} --format llava")
        ),
    )


def samples(store: Store) -> list[dict[str, Any]]:
    """Rows to look at, one kept conversation of each, the kinds taking turns."""
    pool = [row for row in islice(store.rows(), SAMPLE_POOL) if row["status"] == RowStatus.OK]
    chosen: list[dict[str, Any]] = []
    for row in sorted(pool, key=lambda row: str(row["image_id"])):
        kept = sorted(
            (c for c in row["conversations"] if c["status"] == Verdict.KEPT), key=lambda c: list(Kind).index(c["kind"])
        )
        if kept and len(chosen) < NUM_SAMPLES:
            chosen.append(row | {"conversations": [kept[len(chosen) % len(kept)]]})
    return chosen


def _say_figures(console: Console, outcome: Outcome) -> None:
    summary = outcome.summary
    console.print(counts_of_kinds(summary))
    for part in hallucination_tables(summary["hallucination"]):
        console.print()
        console.print(part)
    console.print()
    counts_of_rows(console, summary)
    rate = f", {outcome.images_per_s:.1f} images/s" if outcome.images_per_s else ""
    made = f"{outcome.num_made} images in this run" if outcome.num_made else "nothing was left to do"
    _say(console, ("time", f"{duration(outcome.seconds_of_all_runs)}{rate}, {summary['num_tokens']} tokens ({made})"))
    usage = outcome.usage
    if usage.num_prompt:
        _say(console, ("server", f"{usage.num_prompt:,} tokens read, {usage.num_completion:,} written"))
    if outcome.cost is not None:
        _say(console, ("cost", f"{money(outcome.cost)} {outcome.currency}, all runs of the pass together"))


def counts_of_kinds(summary: Mapping[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0))
    for heading in ("", "kept", "rejected", "changed by VIC", "words VIG, VIC", "tokens"):
        table.add_column(heading, header_style="dim", justify="right" if heading else "left", no_wrap=True)
    for kind, found in summary["kinds"].items():
        table.add_row(
            kind,
            str(found["num_kept"]),
            str(found["num_rejected"]),
            "-" if found["share_changed_by_vic"] is None else f"{found['share_changed_by_vic']:.0%}",
            f"{found['mean_words_vig']:.1f}, {found['mean_words_final']:.1f}",
            str(found["num_tokens"]),
        )
    return table


def counts_of_rows(console: Console, summary: Mapping[str, Any]) -> None:
    """Rows and conversations, with the reasons why some are none."""
    rejected = Counter[str]()
    for found in summary["kinds"].values():
        rejected.update(found["rejected_by_reason"])
    if summary["num_passes"] == 1:
        rows = f"{summary['num_rows']} of {summary['num_requested']} images"
    else:  # an image that was asked for other kinds by a further pass has a row of each
        rows = f"{summary['num_rows']}, the newest of {summary['num_passes']} passes"
    failed = _reasons(summary["failed_by_reason"])
    _say(
        console,
        ("rows", f"{rows}: {summary['num_ok']} ok, {summary['num_failed']} failed{failed}"),
        ("kept", f"{summary['num_kept']} conversations, {summary['num_rejected']} rejected{_reasons(rejected)}"),
    )


def _reasons(numbers: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{name} {number}' for name, number in numbers.items())})" if numbers else ""


def _say(console: Console, *lines: tuple[str, str]) -> None:
    for name, value in lines:
        console.print(Text.assemble((f"{name:<10}", "dim"), value), soft_wrap=True)


def say_caution(console: Console, text: str | None) -> None:
    """What a reader must know before anything else; None: nothing."""
    if text is not None:
        console.print(Text.assemble((f"{'caution':<10}", "bold red"), (text, "bold")), soft_wrap=True)


def outcome_as_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "out": str(outcome.out),
        "pass": outcome.number,
        "num_made": outcome.num_made,
        "seconds": outcome.seconds,
        "num_made_by_all_runs": outcome.num_made_by_all_runs,
        "seconds_of_all_runs": outcome.seconds_of_all_runs,
        "images_per_s": outcome.images_per_s,
        "paid_hours": outcome.paid_hours,
        "usage": asdict(outcome.usage),
        "cost": outcome.cost,
        "report": outcome.report,
        "tracking": outcome.tracking,
        "note": outcome.note,
        "summary": outcome.summary,
    }


def _shown_by(tracking: str) -> str:
    """What shows a tracked run: a server's address, or a command for what is kept here."""
    return tracking if tracking.startswith("http") else f"mlflow ui --backend-store-uri {shlex.quote(tracking)}"
