"""The command line: verbs, flags, help, exit codes.

Each verb imports what it needs when it runs, so `vigc --help` stays quick. A VigcError is the user's to mend and
becomes one line on stderr; anything else is a fault in vigc and keeps its traceback.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from typing import Annotated, Any

import typer

import vigc
from vigc.jobs.bench.command import BENCH
from vigc.jobs.dataset.command import AUDIT, DIGEST, EXPORT, FILTER, POPE, REPORT, SHOW, VALIDATE, VERIFY
from vigc.jobs.evaluate.command import EVALUATE
from vigc.jobs.experiment.command import EXPERIMENT
from vigc.jobs.generate.command import GENERATE, SUMMARY
from vigc.jobs.ingest.command import INGEST
from vigc.jobs.plan.command import PLAN
from vigc.jobs.preview import PREVIEW
from vigc.jobs.scenes import SCENES
from vigc.jobs.serve.command import SERVE
from vigc.jobs.settings.command import Verb, add_verb
from vigc.jobs.settings.shared import PrintsJson
from vigc.jobs.submit.command import SUBMIT
from vigc.jobs.terminal import FAULT, NOT_OK, WRONG_USE, help_end, interrupt_on_every_stop, print_json
from vigc.jobs.train.command import FINETUNE, TRAIN
from vigc.jobs.weights.command import WEIGHTS
from vigc.platform.records import VigcError
from vigc.platform.settings import flag

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


class DoctorConfig(PrintsJson):
    """The settings of `vigc doctor`."""

    ray: bool = flag("Also start Ray and run a task on it.", False)


def doctor(config: DoctorConfig) -> None:
    """Say what this machine has, what is missing, and how to get it."""
    from vigc.jobs.doctor import CheckState, diagnose

    checks = []
    for check in diagnose(with_ray=config.ray):
        checks.append(check)
        if not config.json_:
            remedy = f"  {check.remedy}" if check.remedy else ""
            typer.echo(f"{check.state.value:<8} {check.name:<15} {check.found}{remedy}")
    if config.json_:
        print_json(
            {check.name: {"state": check.state.value, "found": check.found, "remedy": check.remedy} for check in checks}
        )
    if any(check.state is CheckState.MISSING for check in checks):
        raise typer.Exit(NOT_OK)


DOCTOR = Verb(DoctorConfig, doctor, ("vigc doctor", "vigc doctor --ray"))

VERBS: dict[str, tuple[Verb[Any], ...]] = {
    "Make data": (PREVIEW, GENERATE, PLAN, SCENES, INGEST),
    "Look at it and choose": (SHOW, SUMMARY, REPORT, AUDIT, FILTER, VERIFY, DIGEST, EXPORT, VALIDATE),
    "Train and measure": (TRAIN, FINETUNE, EVALUATE, EXPERIMENT, POPE),
    "Serve and send": (SERVE, SUBMIT),
    "This machine": (DOCTOR,),
}
ALL_VERBS = {str(verb): verb for verbs in VERBS.values() for verb in verbs}

for panel, verbs in VERBS.items():
    for verb in verbs:
        add_verb(app, verb, panel)

GROUPS: dict[str, tuple[str, str, tuple[Verb[Any], ...]]] = {  # their headings, what they are, their verbs
    "weights": (
        "Train and measure",
        "Bring weights in, take them out, put what was trained into a model.",
        WEIGHTS,
    ),
    "bench": ("This machine", "Measure: each benchmark prints a table, and --out FILE keeps its figures.", BENCH),
}
for name, (panel, about, verbs) in GROUPS.items():
    group = typer.Typer(no_args_is_help=True, help=about)
    for verb in verbs:
        add_verb(group, verb)
    app.add_typer(group, name=name, rich_help_panel=panel)
ALL_VERBS |= {f"{name} {verb}": verb for name, (_, _, verbs) in GROUPS.items() for verb in verbs}


def main() -> None:
    """The script `vigc`."""
    interrupt_on_every_stop()
    try:
        _main()
    finally:
        _flush()


def _flush() -> None:
    """What was printed reaches its end, or the reason is told: a full disk is no fault of ours."""
    try:
        sys.stdout.flush()
    except OSError as error:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  or the interpreter fails at it once more
        if error.errno == errno.EPIPE:
            raise SystemExit(NOT_OK) from error
        typer.echo(f"vigc: standard output cannot be written ({error.strerror}).", err=True)
        raise SystemExit(WRONG_USE) from error


def _main() -> None:
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(arguments, prog_name="vigc")
    except VigcError as error:
        if "--debug" in sys.argv:
            typer.echo(traceback.format_exc(), err=True)
        typer.echo(f"vigc: {error}", err=True)
        sys.exit(WRONG_USE)
    except Exception as fault:
        if isinstance(fault, OSError) and fault.errno == errno.ENOSPC and fault.filename is None:
            typer.echo(f"vigc: {fault.strerror}, on the disk of standard output or of temporary files.", err=True)
            sys.exit(WRONG_USE)
        typer.echo(f"{traceback.format_exc()}\nvigc: this is a fault in vigc itself; please report it.", err=True)
        raise SystemExit(FAULT) from fault


if __name__ == "__main__":
    main()
