"""`vigc preview`: a few images, and all that is said about them, before a run is begun."""

from __future__ import annotations

import tempfile
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from pydantic import model_validator

from vigc.jobs.generate.config import GenerateConfig, Mode
from vigc.jobs.settings.command import Verb
from vigc.jobs.terminal import INTERRUPTED, NOT_OK, make_console, print_json
from vigc.platform.records import ConfigError
from vigc.platform.settings import flag

if TYPE_CHECKING:
    from rich.console import Console

    from vigc.jobs.generate.run import Outcome
    from vigc.platform.pipeline.progress import Progress


class PreviewConfig(GenerateConfig):
    """The settings of `vigc preview`: those of `vigc generate`, of which few are needed."""

    out: str = flag("Keep the data set in this folder.", "", shown="nothing is kept but the report")
    sample: int | None = flag("How many images are drawn, by --seed.", 10, ge=1, le=1000)
    browser: bool = flag("Open the report in the browser.", True)

    @model_validator(mode="after")
    def _begins(self) -> PreviewConfig:
        if self.mode in (Mode.RETRY_FAILED, Mode.ADD_KIND):
            raise ConfigError(f"--{self.mode} is for a data set that is there. Use it with `vigc generate`.")
        return self


def preview(config: PreviewConfig) -> None:
    """Try a model on ten images: show what is asked, both answers, the time and the cost, and open the report.

    It takes the flags of `vigc generate`.
    """
    folder = tempfile.mkdtemp(prefix="vigc-preview-")
    try:
        with tempfile.TemporaryDirectory(prefix="vigc-preview-") as unkept:
            _preview(config, config.out or str(Path(unkept) / "data"), Path(folder))
    except KeyboardInterrupt as stop:
        typer.echo("Stopped.", err=True)
        raise typer.Exit(INTERRUPTED) from stop
    finally:
        if not any(Path(folder).iterdir()):
            Path(folder).rmdir()


PREVIEW = Verb(
    PreviewConfig,
    preview,
    (
        "vigc preview photos --model http://localhost:8000/v1",
        "vigc preview photos --model Qwen/Qwen3-VL-8B-Instruct --kinds detail --policy verified",
        "vigc preview photos --sample 30 --out tried --no-browser",
    ),
)


def _preview(config: PreviewConfig, out: str, page_folder: Path) -> None:
    from vigc.jobs.dataset.show import render_row
    from vigc.jobs.generate.run import run_generate
    from vigc.jobs.generate.terminal import ProgressLine, outcome_as_json, say_plan
    from vigc.platform.dataset.store import Store

    console = make_console(quiet=config.json_)
    line = ProgressLine(console)
    latest: list[Progress] = []

    def report(now: Progress) -> None:
        latest[:] = [now]
        line.report(now)

    settings = {name: getattr(config, name) for name in GenerateConfig.model_fields}
    whole = GenerateConfig(**settings | {"out": out, "tracking": config.tracking or "none"})
    with line.shown():
        made = run_generate(
            whole, on_plan=lambda plan, pass_: say_plan(console, plan, pass_), on_progress=report, on_note=line.note
        )
    asked: set[str] = set()
    for row in sorted(Store(out).rows(), key=lambda row: str(row["image_id"])):
        for talk in row["conversations"]:
            if talk["instruction"] not in asked:
                asked.add(talk["instruction"])
                console.print(f"[dim]asked for {talk['kind']}:[/] ", end="")
                console.print(talk["instruction"], markup=False)
        console.print(render_row(row, console))
    projected = _projected(config, made, latest[0] if latest else None)
    page = _keep_report(made.report, page_folder) if not config.out else made.report
    if config.json_:
        print_json(outcome_as_json(made) | {"report": page, "projected": projected})
    else:
        _say(console, config, made, projected, page)
    if config.browser and not config.json_ and console.is_terminal:
        webbrowser.open(Path(page).absolute().as_uri() if "://" not in page else page)
    if not made.summary["num_ok"]:
        raise typer.Exit(NOT_OK)


def _projected(config: PreviewConfig, made: Outcome, last: Progress | None) -> dict[str, Any]:
    """What all images of the source would take, as far as so few can tell."""
    from vigc.jobs.ingest.run import open_chosen
    from vigc.jobs.plan.probe import num_images_of

    num_images = num_images_of(open_chosen(config.images, config.model_copy(update={"sample": None})))
    rate = last.images_per_s if last is not None else None
    num_here = max(1, made.num_made_by_all_runs)
    return {
        "num_images": num_images,
        "images_per_s": rate,
        "hours": num_images / rate / 3600 if rate else None,
        "cost": None if made.cost is None else made.cost / num_here * num_images,
        "currency": made.currency,
    }


def _say(console: Console, config: PreviewConfig, made: Outcome, projected: dict[str, Any], page: str) -> None:
    from vigc.jobs.generate.terminal import duration, money

    num = projected["num_images"]
    if projected["hours"] is not None:
        rate = f"{projected['images_per_s']:.2g} images/s"
        console.print(f"time      {rate}: about {duration(projected['hours'] * 3600)} for all {num} images")
    if made.cost is not None:
        about = f"about {money(projected['cost'])} for all {num} images"
        console.print(f"cost      {money(made.cost)} {made.currency}: {about}")
    kept = f"in {config.out}" if config.out else "nothing else is kept; --out DATA keeps the data set"
    console.print(f"report    {page} ({kept})", soft_wrap=True)
    console.print("try       vigc plan generate …, which measures time and cost; then vigc generate …")


def _keep_report(report: str, folder: Path) -> str:
    page = folder / "report.html"
    page.write_bytes(Path(report).read_bytes())
    return str(page)
