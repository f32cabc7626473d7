"""The verb `submit` at the terminal."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

import typer

from vigc.jobs.settings.command import Verb
from vigc.jobs.settings.config import Config
from vigc.jobs.terminal import INTERRUPTED
from vigc.platform.records import ConfigError
from vigc.platform.settings import flag

if TYPE_CHECKING:
    from vigc.jobs.submit.run import Cluster, Ended, Job


class SubmitConfig(Config):
    """The settings of `vigc submit`."""

    command: tuple[str, ...] = flag(
        "Any verb with its flags, as it would be given here.", (), positional=True, metavar="VERB ...", split=False
    )
    address: str | None = flag(
        "The address of the cluster's dashboard.", None, shown="RAY_ADDRESS, or http://127.0.0.1:8265"
    )
    no_code: bool = flag("Send no code along; the cluster's image has vigc.", False)
    env: tuple[str, ...] = flag(
        "A variable for the job's processes; may be repeated. Everyone who sees the dashboard sees it, so let secrets "
        "come by role. MLFLOW_TRACKING_URI goes along unasked.",
        (),
        metavar="NAME[=VALUE]",
        split=False,
    )
    restarts: int = flag("How often a job is sent again whose process or machine died.", 3, ge=0)
    no_follow: bool = flag("Return as soon as the job is sent.", False)
    resume: str | None = flag("Send that job again; it goes on where it was.", None, metavar="JOB", in_file=False)
    follow: str | None = flag("Only show what that job prints.", None, metavar="JOB", in_file=False)
    stop: str | None = flag("Ask that job to end.", None, metavar="JOB", in_file=False)


def submit(config: SubmitConfig) -> None:
    """Run any verb as a job of a Ray cluster, with this code sent along, and follow it.

    The exit code is the job's. Ctrl-C leaves the job running. Sent again, a job goes on where it was.
    """
    from vigc.jobs.submit.run import Cluster, packed

    jobs = {f"--{name}": getattr(config, name) for name in ("resume", "follow", "stop")}
    chosen = [name for name, job_id in jobs.items() if job_id]
    if len(chosen) + bool(config.command) != 1:
        what = " and ".join([*chosen, *(["a verb"] if config.command else [])])
        raise ConfigError(f"{what} contradict each other." if what else "Say which verb to submit; see --help.")
    job_id = config.resume or config.follow or config.stop
    if job_id is None:
        _send(config)
        return
    cluster = Cluster(config.address)
    if config.stop:
        typer.echo(f"{job_id} ends now." if cluster.stop(job_id) else f"{job_id} has ended already.")
    elif config.follow:
        _end(_watched(cluster, lambda: cluster.follow(job_id, _write), [job_id]))
    else:
        job = cluster.job(job_id)
        if not cluster.is_over(job_id):
            raise ConfigError(f"{job_id} is still running. Follow it with --follow, or end it with --stop.")
        with packed() if job.brings_code else nullcontext() as folder:
            _run(cluster, job.again(folder), config)


def _send(config: SubmitConfig) -> None:
    from vigc.jobs.submit.run import Cluster, Job, packed, variables, with_whole_paths

    verb = config.command[0]
    if verb == "submit" or verb.startswith("-"):
        raise ConfigError(f"{verb} is no verb to submit. The flags of submit come before the verb.")
    cluster = Cluster(config.address)
    words, local = with_whole_paths(config.command)
    if local:
        typer.echo(f"On this machine's disks, which all nodes have to share: {', '.join(local)}", err=True)
    with nullcontext() if config.no_code else packed() as folder:
        _run(cluster, Job.of(words, folder, variables(config.env)), config)


def _run(cluster: Cluster, job: Job, config: SubmitConfig) -> None:
    from vigc.jobs.submit.run import run_supervised

    sent: list[str] = []

    def say(job_id: str, why: str) -> None:
        sent.append(job_id)
        if why:
            typer.echo(f"{why} Sent again, to go on from what is committed.", err=True)
        typer.echo(f"job        {job_id}\ndashboard  {cluster.page(job_id)}", err=True)
        if mlflow := job.runtime_env["env_vars"].get("MLFLOW_TRACKING_URI"):
            typer.echo(f"MLflow     {mlflow}", err=True)

    if config.no_follow:
        say(cluster.submit(job), "")
        typer.echo(f"follow     vigc submit --address {cluster.address} --follow {sent[-1]}", err=True)
        return
    _end(_watched(cluster, lambda: run_supervised(cluster, job, config.restarts, _write, say), sent))


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


SUBMIT = Verb(
    SubmitConfig,
    submit,
    (
        "vigc submit generate s3://bucket/photos --out s3://bucket/data --gpus-per-actor 1 --actors 1:16",
        "vigc submit --address http://head:8265 --env AWS_REGION train --recipe paper_7b --data a.json "
        "--out /shared/run",
        "vigc submit --no-code verify s3://bucket/data        # where the cluster's image has vigc",
        "vigc submit --follow vigc-generate-20261126-101500-3f2a",
        "vigc submit --resume vigc-generate-20261126-101500-3f2a",
    ),
    interspersed=False,
)
