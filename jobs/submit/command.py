"""The verb `submit` at the terminal."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from vigc.jobs.terminal import INTERRUPTED, help_end
from vigc.platform.records import ConfigError

if TYPE_CHECKING:
    from vigc.jobs.submit.run import Cluster, Ended, Job

SUBMIT_EXAMPLES = help_end(
    "vigc submit generate s3://bucket/photos --out s3://bucket/data --gpus-per-actor 1 --actors 1:16",
    "vigc submit --address http://head:8265 --env AWS_REGION train --recipe paper_7b --data a.json --out /shared/run",
    "vigc submit --no-code verify s3://bucket/data        # where the cluster's image has vigc",
    "vigc submit --follow vigc-generate-20261126-101500-3f2a",
    "vigc submit --resume vigc-generate-20261126-101500-3f2a",
)


def submit(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="VERB ...", help="Any verb with its flags, as it would be given here."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Of the cluster's dashboard.", show_default="RAY_ADDRESS, or http://127.0.0.1:8265"),
    ] = None,
    no_code: Annotated[
        bool, typer.Option("--no-code", help="Send no code along; the cluster's image has vigc.")
    ] = False,
    env: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=VALUE]",
            help="A variable for the job's processes. May be repeated. Everyone who sees the dashboard sees it, so let "
            "secrets come by role. MLFLOW_TRACKING_URI goes along unasked.",
        ),
    ] = None,
    restarts: Annotated[
        int, typer.Option(min=0, help="How often a job is sent again whose process or machine died.")
    ] = 3,
    no_follow: Annotated[bool, typer.Option("--no-follow", help="Return as soon as the job is sent.")] = False,
    resume: Annotated[
        str | None, typer.Option(metavar="JOB", help="Send that job again; it goes on where it was.")
    ] = None,
    follow: Annotated[str | None, typer.Option(metavar="JOB", help="Only show what that job prints.")] = None,
    stop: Annotated[str | None, typer.Option(metavar="JOB", help="End that job.")] = None,
) -> None:
    """Run any verb as a job of a Ray cluster, with this code sent along, and follow it.

    The exit code is the job's. Ctrl-C leaves the job running. Sent again, a job goes on where it was.
    """
    from vigc.jobs.submit.run import Cluster, packed

    chosen = [name for name, value in (("--resume", resume), ("--follow", follow), ("--stop", stop)) if value]
    if len(chosen) + bool(words) != 1:
        what = " and ".join([*chosen, *(["a verb"] if words else [])])
        raise ConfigError(f"{what} contradict each other." if what else "Say which verb to submit; see --help.")
    job_id = resume or follow or stop
    if job_id is None:
        _send(words or [], address, no_code=no_code, env=env or [], restarts=restarts, no_follow=no_follow)
        return
    cluster = Cluster(address)
    if stop:
        typer.echo(f"{job_id} ends now." if cluster.stop(job_id) else f"{job_id} has ended already.")
    elif follow:
        _end(_watched(cluster, lambda: cluster.follow(job_id, _write), [job_id]))
    else:
        job = cluster.job(job_id)
        if not cluster.is_over(job_id):
            raise ConfigError(f"{job_id} is still running. Follow it with --follow, or end it with --stop.")
        with packed() if job.brings_code else nullcontext() as folder:
            _run(cluster, job.again(folder), restarts, no_follow=no_follow)


def _send(
    words: list[str], address: str | None, *, no_code: bool, env: list[str], restarts: int, no_follow: bool
) -> None:
    from vigc.jobs.submit.run import Cluster, Job, packed, variables, with_whole_paths

    if words[0] == "submit" or words[0].startswith("-"):
        raise ConfigError(f"{words[0]} is no verb to submit. The flags of submit come before the verb.")
    cluster = Cluster(address)
    words, local = with_whole_paths(words)
    if local:
        typer.echo(f"On this machine's disks, which all nodes have to share: {', '.join(local)}", err=True)
    with nullcontext() if no_code else packed() as folder:
        _run(cluster, Job.of(words, folder, variables(env)), restarts, no_follow=no_follow)


def _run(cluster: Cluster, job: Job, restarts: int, *, no_follow: bool) -> None:
    from vigc.jobs.submit.run import run_supervised

    sent: list[str] = []

    def say(job_id: str, why: str) -> None:
        sent.append(job_id)
        if why:
            typer.echo(f"{why} Sent again, to go on from what is committed.", err=True)
        typer.echo(f"job        {job_id}\ndashboard  {cluster.page(job_id)}", err=True)
        if mlflow := job.runtime_env["env_vars"].get("MLFLOW_TRACKING_URI"):
            typer.echo(f"MLflow     {mlflow}", err=True)

    if no_follow:
        say(cluster.submit(job), "")
        typer.echo(f"follow     vigc submit --address {cluster.address} --follow {sent[-1]}", err=True)
        return
    _end(_watched(cluster, lambda: run_supervised(cluster, job, restarts, _write, say), sent))


def _watched(cluster: Cluster, until_it_ends: Callable[[], Ended], sent: list[str]) -> Ended:
    """Ctrl-C ends the watching, not the job."""
    try:
        return until_it_ends()
    except KeyboardInterrupt as interrupt:
        if not sent:
            raise typer.Exit(INTERRUPTED) from interrupt
        typer.echo(
            f"\nThe job goes on.\n  follow  vigc submit --address {cluster.address} --follow {sent[-1]}\n"
            f"  stop    vigc submit --address {cluster.address} --stop {sent[-1]}",
            err=True,
        )
        raise typer.Exit(INTERRUPTED) from interrupt


def _end(ended: Ended) -> None:
    if ended.exit_code:
        typer.echo(f"The job ended with exit code {ended.exit_code}. {ended.message}.", err=True)
        raise typer.Exit(ended.exit_code)


def _write(text: str) -> None:
    typer.echo(text, nl=False)
