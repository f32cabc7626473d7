"""The command line: verbs, flags, help, exit codes.

Each verb imports what it needs when it runs, so `vigc --help` stays quick. A VigcError is the user's to mend and
becomes one line on stderr; anything else is a fault in vigc and keeps its traceback.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

import vigc
from vigc.jobs.bench.command import bench
from vigc.jobs.dataset.export_command import EXPORT_EXAMPLES, VALIDATE_EXAMPLES, export, validate
from vigc.jobs.dataset.filter_command import FILTER_EXAMPLES, filter_
from vigc.jobs.dataset.pope_command import POPE_EXAMPLES, pope
from vigc.jobs.dataset.report_command import AUDIT_EXAMPLES, REPORT_EXAMPLES, audit, report
from vigc.jobs.evaluate.command import EVALUATE_EXAMPLES, evaluate
from vigc.jobs.experiment.command import EXPERIMENT_EXAMPLES, experiment
from vigc.jobs.generate import command as generate
from vigc.jobs.plan.command import PLAN_EXAMPLES, plan
from vigc.jobs.serve.command import SERVE_EXAMPLES, serve
from vigc.jobs.submit.command import SUBMIT_EXAMPLES, submit
from vigc.jobs.terminal import FAULT, NOT_OK, WRONG_USE, Json, help_end, make_console, print_json
from vigc.jobs.train.command import TRAIN_EXAMPLES, train
from vigc.jobs.train.finetune_command import FINETUNE_EXAMPLES, finetune
from vigc.jobs.weights.command import weights
from vigc.platform.records import ConfigError, VigcError

app = typer.Typer(
    name="vigc",
    help="Images in, corrected image-text instruction data out, with proof.",
    epilog=help_end(
        "vigc scenes scenes --num 200",
        "vigc generate scenes --out data",
        "vigc show data",
        "vigc filter data",
        "vigc verify data",
        "vigc export data --format llava",
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Out = Annotated[str, typer.Argument(metavar="OUT", help="The dataset directory that `vigc generate --out OUT` wrote.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vigc {vigc.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error, too. May stand anywhere.")
    ] = False,
) -> None:
    """`main` reads --debug before Typer does; both are declared here for the help."""


generate.add(app, "Data")
app.command("filter", epilog=FILTER_EXAMPLES)(filter_)
app.command(epilog=POPE_EXAMPLES)(pope)
app.command(epilog=TRAIN_EXAMPLES)(train)
app.command(epilog=SERVE_EXAMPLES)(serve)
app.command(epilog=PLAN_EXAMPLES, context_settings={"allow_interspersed_args": False})(plan)
app.command(epilog=SUBMIT_EXAMPLES, context_settings={"allow_interspersed_args": False})(submit)
app.command(epilog=EVALUATE_EXAMPLES)(evaluate)
app.command(epilog=FINETUNE_EXAMPLES)(finetune)
app.command(epilog=EXPERIMENT_EXAMPLES)(experiment)
app.add_typer(weights, name="weights")


@app.command(epilog=help_end("vigc scenes scenes", "vigc scenes debiased --num 1000 --seed 8 --debiased"))
def scenes(
    out: Annotated[str, typer.Argument(metavar="OUT", help="A folder that does not exist yet, or is empty.")],
    num: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same scenes.")] = 7,
    debiased: Annotated[bool, typer.Option("--debiased", help="Objects without their usual company.")] = False,
    min_objects: Annotated[int, typer.Option(min=1, max=12, help="In one scene, at least.")] = 1,
    max_objects: Annotated[int, typer.Option(min=1, max=12, help="In one scene, at most.")] = 5,
    json_: Json = False,
) -> None:
    """Render pictures with exact annotations, to try things on: OUT/images and OUT/annotations.json (COCO)."""
    from vigc.jobs.scenes import make_scenes

    written = make_scenes(out, num=num, seed=seed, debiased=debiased, min_objects=min_objects, max_objects=max_objects)
    if json_:
        print_json(
            {"out": str(Path(out).absolute()), "num": num, "seed": seed, "debiased": debiased, "written": written}
        )
        return
    typer.echo(f"{num} scenes in {out}" if written else f"{out} already holds exactly these {num} scenes.")
    if written:
        typer.echo(f"try  vigc generate {out} --out data")


@app.command(
    epilog=help_end(
        "vigc ingest objects365 --annotations zhiyuan_objv2_train.json --to manifest",
        "vigc ingest coco/train2017 --annotations instances.json --annotations captions.json --to manifest",
        "vigc ingest 's3://bucket/shards/{00000..00099}.tar' --to s3://bucket/manifest --sample 10000 --seed 3",
        "vigc ingest photos --to manifest --exclude used_in_training.json --shard 1/4",
    )
)
def ingest(
    location: Annotated[
        str,
        typer.Argument(
            metavar="LOCATION",
            help="Images: a folder, a list of addresses (.txt), COCO, a manifest, tar shards, or Hugging Face.",
        ),
    ],
    to: Annotated[str, typer.Option(metavar="MANIFEST", help="A folder that is new or empty; may be s3:// or gs://.")],
    annotations: Annotated[
        list[str] | None,
        typer.Option(help="A COCO annotation file for the images. May be repeated; they are joined by image id."),
    ] = None,
    source: Annotated[str, typer.Option(help="auto, folder, coco, manifest, webdataset or huggingface.")] = "auto",
    exclude: Annotated[
        str | None, typer.Option(metavar="FILE", help="Leave out these ids: lines, JSON, Parquet or CSV.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N images.", show_default="all")] = None,
    sample: Annotated[int | None, typer.Option(help="N images drawn by --seed.", show_default="all")] = None,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="One of N parts, from 1/N to N/N.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another manifest there.")] = False,
    json_: Json = False,
) -> None:
    """Write any source as a manifest of Parquet files, to be read fast and often.

    Exclude, limit, sample and shard are applied in this order. The same command again finds the manifest finished.
    """
    from dataclasses import asdict

    from vigc.jobs.ingest import Part, Say, run_ingest

    say = Say(make_console(quiet=json_))
    with say.shown():
        made = run_ingest(
            location,
            to,
            annotations=annotations or (),
            source=source,
            part=Part(limit, sample, seed, shard, exclude),
            overwrite=overwrite,
            on_open=say.opened,
            on_progress=say.report,
        )
    if json_:
        print_json(asdict(made))
    else:
        say.done(made)


@app.command(
    epilog=help_end(
        "vigc show data --limit 20 | less",
        "vigc show data --image-id 000042.jpg",
        "vigc show data --kind detail --rejected",
    )
)
def show(
    out: Out,
    limit: Annotated[int, typer.Option(min=1, help="How many rows.")] = 5,
    image_id: Annotated[str | None, typer.Option(help="Only this image.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only this kind of conversation.")] = None,
    rejected: Annotated[
        bool, typer.Option("--rejected", help="Only rejected conversations, with the reasons.")
    ] = False,
    failed: Annotated[
        bool, typer.Option("--failed", help="Only images that could not be used, with the reasons.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show rows as readable text: VIG's answer and VIC's side by side, the differences marked."""
    from vigc.jobs.dataset.show import as_json_lines, select_rows, show_rows
    from vigc.platform.dataset.store import Store

    rows = select_rows(Store(out), image_id=image_id, kind=kind, rejected=rejected, failed=failed)
    if json_:
        for line in as_json_lines(rows, limit):
            typer.echo(line)
    elif not show_rows(make_console(), rows, limit):
        typer.echo("No row matches.")


@app.command(
    epilog=help_end("vigc summary data", "vigc summary data --by folder", "vigc summary data --by domains.csv --json")
)
def summary(
    out: Out,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="folder|pass|FILE",
            help="Also a table for each part: of the first folder of image_id, of the pass, or of what a Parquet or "
            "CSV file with the columns image_id and domain says.",
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Count what a data set holds, and how often it names objects that are not there, before and after VIC."""
    from vigc.jobs.generate.summary import run_summary, say_summary

    found = run_summary(out, by)
    if json_:
        print_json(found)
    else:
        say_summary(make_console(), found)


@app.command(
    epilog=help_end(
        "vigc verify data", "vigc verify s3://bucket/data --json", "vigc verify data --images --sample 1000"
    )
)
def verify(
    out: Out,
    images: Annotated[
        bool, typer.Option("--images", help="Also read the source images again and name those that changed.")
    ] = False,
    sample: Annotated[
        int | None, typer.Option(min=1, help="With --images: only N of them, the same each time.", show_default="all")
    ] = None,
    json_: Json = False,
) -> None:
    """Prove that every image that was asked for has exactly one complete row, and no file is torn or left over."""
    from vigc.jobs.dataset.verify import Meter, as_json, in_words, run_verify, table_of

    if sample is not None and not images:
        raise ConfigError("--sample says how many source images are read again. Add --images.")
    console = make_console(quiet=json_)
    found = run_verify(out, images=images, sample=sample, meter=Meter(console))
    if json_:
        print_json(as_json(found))
    else:
        console.print(table_of(found.rows))
        for line in in_words(found):
            typer.echo(line)
    if not found.ok:
        raise typer.Exit(NOT_OK)


@app.command(epilog=help_end("vigc digest data"))
def digest(out: Out, json_: Json = False) -> None:
    """Print one hash over all answers, to compare two data sets in one line."""
    from vigc.platform.dataset.digest import digest as run_digest

    found = run_digest(out)
    if json_:
        print_json({"digest": found})
    else:
        typer.echo(found)


app.command(epilog=EXPORT_EXAMPLES)(export)
app.command(epilog=VALIDATE_EXAMPLES)(validate)
app.command(epilog=REPORT_EXAMPLES)(report)
app.command(epilog=AUDIT_EXAMPLES)(audit)


@app.command(epilog=help_end("vigc doctor", "vigc doctor --ray"))
def doctor(
    ray: Annotated[bool, typer.Option("--ray", help="Also start Ray and run a task on it.")] = False,
    json_: Json = False,
) -> None:
    """Say what this machine has, what is missing, and how to get it."""
    from vigc.jobs.doctor import State, diagnose

    checks = []
    for check in diagnose(with_ray=ray):
        checks.append(check)
        if not json_:
            remedy = f"  {check.remedy}" if check.remedy else ""
            typer.echo(f"{check.state.value:<8} {check.name:<15} {check.found}{remedy}")
    if json_:
        print_json(
            {check.name: {"state": check.state.value, "found": check.found, "remedy": check.remedy} for check in checks}
        )
    if any(check.state is State.MISSING for check in checks):
        raise typer.Exit(NOT_OK)


app.add_typer(bench, name="bench")


def main() -> None:
    """The script `vigc`."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(arguments, prog_name="vigc")
    except VigcError as error:
        if "--debug" in sys.argv:
            typer.echo(traceback.format_exc(), err=True)
        typer.echo(f"vigc: {error}", err=True)
        sys.exit(WRONG_USE)
    except Exception as fault:
        typer.echo(f"{traceback.format_exc()}\nvigc: this is a fault in vigc itself; please report it.", err=True)
        raise SystemExit(FAULT) from fault


if __name__ == "__main__":
    main()
