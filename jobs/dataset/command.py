"""The verbs about a data set, or about training files, at the terminal."""

from __future__ import annotations

from dataclasses import asdict

import typer

from vigc.jobs.dataset.config import (
    AuditConfig,
    ExportConfig,
    FilterConfig,
    PopeConfig,
    ReportConfig,
    ShowConfig,
    ValidateConfig,
    VerifyConfig,
)
from vigc.jobs.settings.command import Verb
from vigc.jobs.settings.shared import OfDataSet
from vigc.jobs.terminal import NOT_OK, Counting, make_console, print_json


def show(config: ShowConfig) -> None:
    """Show rows as readable text: VIG's answer and VIC's side by side, the differences marked.

    With --json there is one JSON object a line.
    """
    from vigc.jobs.dataset.show import as_json_lines, select_rows, show_rows
    from vigc.platform.dataset.store import Store

    rows = select_rows(
        Store(config.data), image_id=config.image_id, kind=config.kind, rejected=config.rejected, failed=config.failed
    )
    if config.json_:
        for line in as_json_lines(rows, config.limit):
            typer.echo(line)
    elif not show_rows(make_console(), rows, config.limit):
        typer.echo("No row matches.")


def report(config: ReportConfig) -> None:
    """Write DATA/report.html: figures, and images with what was said of them, in one file to look at and to mark."""
    from vigc.platform.dataset.store import Store
    from vigc.platform.report import Sizes, write_report

    store = Store(config.data)
    store.existing_passes()
    sizes = Sizes(config.worst, config.random, config.rejected)
    with Counting(make_console(quiet=config.json_), "rows") as counting:
        place = write_report(store, sizes=sizes, on_progress=counting.report)
    if config.json_:
        print_json({"report": place})
    else:
        typer.echo(place)


def audit(config: AuditConfig) -> None:
    """Say how far the automatic checks agree with a human who marked sentences in the report."""
    from vigc.jobs.dataset.tables import audit_tables
    from vigc.platform.dataset.store import Store
    from vigc.platform.report.audit import audit as run_audit
    from vigc.platform.report.audit import read_marks

    found = run_audit(Store(config.data), read_marks(config.marks), config.grounding_below)
    if config.json_:
        print_json(asdict(found))
        return
    console = make_console()
    for part in audit_tables(found):
        console.print(part)


def filter_(config: FilterConfig) -> None:
    """Decide which conversations are kept. Rows stay as they are, so decide again as often as you like.

    Each time all is decided anew, by these flags alone; `show`, `export` and `summary` follow the newest decision.
    """
    from vigc.jobs.dataset.filter import as_json, run_filter, with_words
    from vigc.jobs.dataset.tables import evaluation_lines, filter_table, hallucination_tables
    from vigc.jobs.dataset.verify import ProgressBar

    console = make_console(quiet=config.json_)
    meter = ProgressBar(console)
    with meter.shown("images and rows"):
        found = run_filter(
            config.data,
            with_words(config),
            exclude_like=config.exclude_like,
            clear=config.clear,
            on_images=meter.report,
            on_rows=meter.report,
        )
    if config.json_:
        print_json(as_json(found))
        return
    if config.clear:
        typer.echo(f"All conversations are kept again{'' if found.changed else ', as they were'}.")
        return
    console.print(filter_table(found.about))
    for line in evaluation_lines(found.about):
        typer.echo(line)
    for part in hallucination_tables(found.summary["hallucination"]):
        console.print()
        console.print(part)
    console.print()
    typer.echo(
        f"verdicts  {config.data}/verdicts/{found.number}.parquet"
        f"{'' if found.changed else ' (nothing has changed)'}; exports leave out what they reject"
    )


def verify(config: VerifyConfig) -> None:
    """Prove that every image that was asked for has exactly one complete row, and no file is torn or left over."""
    from vigc.jobs.dataset.verify import ProgressBar, as_json, in_words, run_verify, table_of

    console = make_console(quiet=config.json_)
    found = run_verify(config.data, images=config.images, sample=config.sample, meter=ProgressBar(console))
    if config.json_:
        print_json(as_json(found))
    else:
        console.print(table_of(found.rows))
        for line in in_words(found):
            typer.echo(line)
    if not found.ok:
        raise typer.Exit(NOT_OK)


def digest(config: OfDataSet) -> None:
    """Print one hash over all answers, to compare two data sets in one line."""
    from vigc.platform.dataset.digest import digest as run_digest

    found = run_digest(config.data)
    if config.json_:
        print_json({"digest": found})
    else:
        typer.echo(found)


def export(config: ExportConfig) -> None:
    """Write the kept conversations in a trainer's format. File or folder appear when they are complete."""
    from vigc.jobs.dataset.export import run_export

    with Counting(make_console(quiet=config.json_), "examples") as counting:
        done = run_export(config, on_progress=counting.report)
    if config.json_:
        about = {"num_examples": done.num_examples, "left_out": done.left_out, "image_folder": done.image_folder}
        print_json({"file": done.place, **about, "checked": config.check, "caution": done.caution})
        return
    typer.echo(f"{done.num_examples} examples in {done.place}{', checked' if config.check else ''}")
    for why, num in done.left_out.items():
        typer.echo(f"left out: {num} {why}")
    if done.caution:
        typer.echo(f"caution: {done.caution}")
    if done.image_folder and config.format in ("llava", "sharegpt"):
        typer.echo(f"images below {done.image_folder}")


def validate(config: ValidateConfig) -> None:
    """Say what would trip a trainer in a file of training data, anyone's, with row numbers. Exits 1 on a fault."""
    from vigc.jobs.dataset.validate import in_words, run_validate
    from vigc.platform.exports.validate import as_json

    with Counting(make_console(quiet=config.json_), "rows") as counting:
        found = run_validate(config, on_progress=counting.report)
    if config.json_:
        print_json(as_json(found))
    else:
        for line in in_words(found):
            typer.echo(line)
    if not found.is_ok:
        raise typer.Exit(NOT_OK)


def pope(config: PopeConfig) -> None:
    """Ask for objects that are there and objects that are not ("Is there a dog in the image?"), as POPE does.

    Absent is what neither a box nor a caption names: any such object, a frequent one, or one that usually comes with
    what is there.
    """
    from vigc.jobs.dataset.pope import run_pope
    from vigc.jobs.dataset.verify import ProgressBar

    meter = ProgressBar(make_console(quiet=config.json_))
    with meter.shown("images"):
        made = run_pope(config, on_progress=meter.report)
    if config.json_:
        print_json(asdict(made))
        return
    typer.echo(
        f"{made.num_probes} questions about {made.num_images} of {made.num_eligible} images that have enough objects; "
        f"vocabulary {made.vocabulary}"
    )
    for name, file in made.files.items():
        typer.echo(f"{name:<12} {file}")


SHOW = Verb(
    ShowConfig,
    show,
    (
        "vigc show data --limit 20 | less",
        "vigc show data --image-id 000042.jpg",
        "vigc show data --kind detail --rejected",
    ),
)
REPORT = Verb(ReportConfig, report, ("vigc report data", "vigc report s3://bucket/data --worst 100 --random 200"))
AUDIT = Verb(
    AuditConfig,
    audit,
    ("vigc audit data marks.json", "vigc audit data marks.json --grounding-below 0.3 --json"),
)
FILTER = Verb(
    FilterConfig,
    filter_,
    (
        "vigc filter data",
        "vigc filter data --max-absent 0 --min-grounding 0.1",
        "vigc filter data --max-opening 0.1 --max-yes-no 0.5",
        "vigc filter data --exclude-like coco/val2014        # no image of a benchmark",
        "vigc filter data --words banned.txt --language en --off similar_image",
        "vigc filter data --clear                            # keep all again",
    ),
)
VERIFY = Verb(
    VerifyConfig,
    verify,
    ("vigc verify data", "vigc verify s3://bucket/data --json", "vigc verify data --images --sample 1000"),
)
DIGEST = Verb(OfDataSet, digest, ("vigc digest data",))
EXPORT = Verb(
    ExportConfig,
    export,
    (
        "vigc export data --format llava",
        "vigc export data --format sharegpt --multi-turn --out train.json --check",
        "vigc export data --format huggingface --out s3://bucket/dataset",
        "vigc export data --format preference --per sentence --out pairs",
    ),
)
VALIDATE = Verb(
    ValidateConfig,
    validate,
    (
        "vigc validate llava_v1_5_mix665k.json --images images",
        "vigc validate train.jsonl --open 1000 --tokenizer vicuna --max-tokens 2048 --tokens-per-image 576",
        "vigc validate train.json --images coco --open all --exclude-like coco/val2014 --out findings.jsonl",
    ),
)
POPE = Verb(
    PopeConfig,
    pope,
    (
        "vigc pope scenes --out pope.jsonl            # pope_random.jsonl, pope_popular.jsonl, pope_adversarial.jsonl",
        "vigc pope coco/val2014 --annotations coco/annotations/instances_val2014.json --out coco_pope.json",
        "vigc pope zhiyuan_objv2_val.json --out probes.jsonl --split adversarial --num-images 2000",
    ),
)
