"""A verb as a job of a Ray cluster: sent there, followed, stopped, sent again.

The job brings this code along, in the folder that it works in, so that nodes need our dependencies but not us.
What a verb has done lies at OUT, so the same verb in another job goes on where the first one was.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import shlex
import shutil
import socket
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import vigc
from vigc.jobs.machine import COMMIT_VARIABLE, git_commit
from vigc.jobs.terminal import FAULT, INTERRUPTED
from vigc.platform.records import ConfigError, RunError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

CALL = ("python", "-m", "vigc")
# A new job must not begin by removing what the one before it has made.
ONLY_ONCE = ("--overwrite",)
# Flags whose values are places: those that are written need not be there yet, the others may be a name of ours, too.
WRITTEN = ("--out",)
READ = ("--annotations", "--exclude", "--config", "--prompts", "--images", "--data", "--validation", "--model")
# Ray's words for a job whose machine, or the process that watches it there, died.
LOST = ("JOB_SUPERVISOR_ACTOR_DIED", "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE")
RETRY_S = 5.0
TRY_S = 5.0  # for an address to answer at all
AWAY_S = 300.0  # for so long a cluster that does not answer is asked again


@dataclass(frozen=True)
class Job:
    """What is sent: a command line for a shell on the cluster, and what its processes need."""

    entrypoint: str
    runtime_env: dict[str, Any]

    @classmethod
    def of(cls, words: Sequence[str], folder: Path | None, variables: Mapping[str, str]) -> Job:
        """
        Args:
            words: of the verb, like ["generate", "s3://bucket/photos", "--out", "s3://bucket/data"].
            folder: that the job works in and imports from; None where the cluster has vigc.
        """
        env: dict[str, Any] = {"env_vars": {"PYTHONUNBUFFERED": "1", **variables}}
        if folder is not None:
            env["working_dir"] = str(folder)
        return cls(shlex.join([*CALL, *words]), env)

    @property
    def verb(self) -> str:
        return shlex.split(self.entrypoint)[len(CALL)]

    @property
    def brings_code(self) -> bool:
        return "working_dir" in self.runtime_env

    def again(self, folder: Path | None = None) -> Job:
        """The job that goes on where this one was.

        Args:
            folder: with the code, where that of the first job is no longer at hand.
        """
        words = [word for word in shlex.split(self.entrypoint) if word not in ONLY_ONCE]
        env = self.runtime_env if folder is None else {**self.runtime_env, "working_dir": str(folder)}
        return Job(shlex.join(words), env)


@dataclass(frozen=True)
class Ended:
    """How a job ended."""

    exit_code: int
    message: str
    was_lost: bool  # its process was killed, or its machine died, which says nothing about its work


class Cluster:
    """The jobs of one cluster.

    Args:
        address: of its dashboard, like http://host:8265; None: what RAY_ADDRESS says, or this machine.
    Raises:
        RunError: nothing answers there. ConfigError: a package is missing here.
    """

    def __init__(self, address: str | None) -> None:
        self._client = _client(address)
        self.address: str = self._client.get_address()

    def submit(self, job: Job) -> str:
        """Sends it and returns its id."""
        moment = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        try:
            with self._answering():
                job_id: str = self._client.submit_job(
                    entrypoint=job.entrypoint,
                    runtime_env=job.runtime_env,
                    submission_id=f"vigc-{job.verb}-{moment}-{token_hex(2)}",
                )
        except (RuntimeError, ValueError) as error:
            raise RunError(f"{self.address} did not take the job: {_first_line(error)}.") from error
        return job_id

    def page(self, job_id: str) -> str:
        return f"{self.address}/#/jobs/{job_id}"

    def job(self, job_id: str) -> Job:
        """What was sent under this id."""
        found = self._info_now(job_id)
        if tuple(shlex.split(found.entrypoint)[: len(CALL)]) != CALL:
            raise ConfigError(f"The job {job_id} is no verb of vigc, but {found.entrypoint!r}.")
        return Job(found.entrypoint, dict(found.runtime_env or {}))

    def is_over(self, job_id: str) -> bool:
        return bool(self._info_now(job_id).status.is_terminal())

    def stop(self, job_id: str) -> bool:
        """Asks it to end; False where it has ended already."""
        if self.is_over(job_id):
            return False
        with self._answering():
            return bool(self._client.stop_job(job_id))

    def follow(self, job_id: str, write: Callable[[str], None]) -> Ended:
        """Passes on what the job prints until it has ended, across moments in which the cluster does not answer."""
        from aiohttp import ClientError

        text, answered = _Text(write), time.monotonic()
        while True:
            try:
                asyncio.run(self._tail(job_id, text))
                found = self._info(job_id)
                if found.status.is_terminal():
                    text.begin()
                    text.add(self._client.get_job_logs(job_id))
                    return _ended(found)
                answered = time.monotonic()
            except (RuntimeError, OSError, ClientError) as error:
                if time.monotonic() - answered > AWAY_S:
                    raise RunError(
                        f"{self.address} has not answered for {AWAY_S / 60:g} minutes ({_first_line(error)}). The job "
                        f"{job_id} may be running all the same; look with `vigc submit --follow {job_id}`."
                    ) from error
            time.sleep(RETRY_S if time.monotonic() - answered > 1 else 1)

    async def _tail(self, job_id: str, text: _Text) -> None:
        text.begin()
        async for part in self._client.tail_job_logs(job_id):
            text.add(part)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # requests' errors are such
            raise RunError(f"{self.address} does not answer any more ({_first_line(error)}).") from error

    def _info_now(self, job_id: str) -> JobDetails:
        with self._answering():
            return self._info(job_id)

    def _info(self, job_id: str) -> JobDetails:
        try:
            return self._client.get_job_info(job_id)
        except RuntimeError as error:
            if "does not exist" in str(error) or "404" in str(error):
                raise ConfigError(
                    f"{self.address} knows no job {job_id}. `ray job list` shows those it has."
                ) from error
            raise


class _Text:
    """What a job has printed, which comes from its beginning each time one asks; written once."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write, self._num_seen, self._num_written = write, 0, 0

    def begin(self) -> None:
        self._num_seen = 0

    def add(self, part: str) -> None:
        self._num_seen += len(part)
        if (num_new := self._num_seen - self._num_written) > 0:
            self._write(part[-num_new:])
            self._num_written = self._num_seen


def run_supervised(
    cluster: Cluster, job: Job, restarts: int, write: Callable[[str], None], say: Callable[[str, str], None]
) -> Ended:
    """Sends the job, follows it, and sends it again when it was lost, which goes on from what is committed.

    Args:
        restarts: how often, at the most.
        write: gets what the job prints.
        say: gets the id of each job that was sent, and why it was sent if it is not the first.
    """
    job_id = cluster.submit(job)
    say(job_id, "")
    while True:
        ended = cluster.follow(job_id, write)
        if not ended.was_lost or not restarts:
            return ended
        restarts -= 1
        job = job.again()
        job_id = cluster.submit(job)
        say(job_id, f"The job was lost ({ended.message}).")


@contextmanager
def packed() -> Iterator[Path]:
    """A folder for a job to work in, with this package in it, whether installed here or linked from a checkout."""
    with tempfile.TemporaryDirectory(prefix="vigc-submit-") as folder:
        package = Path(vigc.__file__).resolve().parent
        shutil.copytree(package, Path(folder) / "vigc", ignore=shutil.ignore_patterns("__pycache__"))
        yield Path(folder)


def variables(given: Sequence[str]) -> dict[str, str]:
    """What the job's processes get in their environment: NAME=VALUE, or a NAME that has a value here.

    Where MLflow is, and which commit this is, go along unasked.
    """
    found = {name: os.environ[name] for name in ("MLFLOW_TRACKING_URI",) if os.environ.get(name)}
    if commit := git_commit():
        found[COMMIT_VARIABLE] = commit
    for one in given:
        name, equals, value = one.partition("=")
        if not equals and name not in os.environ:
            raise ConfigError(f"--env {name}: there is no such variable here. Give its value, as in {name}=VALUE.")
        found[name] = value if equals else os.environ[name]
    return found


def with_whole_paths(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words with local paths made absolute, for a job works in a folder of its own; and those paths.

    A path is what stands without a flag and is there, and the value of a flag for paths. Other flags' values are left
    alone, whatever lies here under their name.
    """
    made, local = list(words[:1]), []
    for before, word in pairwise(words):
        flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        name = before if not flag and before.startswith("--") and "=" not in before else flag
        if value and (equals or not flag):
            parts = [_whole(part, name) for part in value.split(",")]
            local += [whole for whole, part in zip(parts, value.split(","), strict=True) if whole != part]
            word = f"{flag}{equals}{','.join(parts)}"  # noqa: PLW2901
        made.append(word)
    return made, local


def _whole(value: str, flag: str) -> str:
    is_place = flag in WRITTEN or ((not flag or flag in READ or os.sep in value) and Path(value).exists())
    return str(Path(value).absolute()) if value and "://" not in value and is_place else value


def _client(address: str | None) -> JobSubmissionClient:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.exceptions import RpcError
    from ray.job_submission import JobSubmissionClient

    where = _dashboard(address or os.environ.get("RAY_ADDRESS") or "http://127.0.0.1:8265")
    try:
        return JobSubmissionClient(where)
    except (RuntimeError, ConnectionError, ValueError, ImportError, RpcError) as error:
        if "ray[default]" in str(error):
            raise ConfigError(
                "The client for jobs is missing here; `pip install 'vigc[cluster]'` brings it."
            ) from error
        raise RunError(
            f"No Ray cluster answers at {where} ({_first_line(error)}). Give the address of its dashboard with "
            "--address or RAY_ADDRESS, such as http://127.0.0.1:8265."
        ) from error


def _dashboard(where: str) -> str:
    """HOST:PORT as Ray wants it: with http:// where a dashboard answers, as it is where a cluster's head does.

    Raises:
        RunError: nobody listens there.
    """
    if not (found := re.fullmatch(r"([\w.-]+):(\d+)", where)):
        return where
    try:
        socket.create_connection((found[1], int(found[2])), TRY_S).close()
    except OSError as error:
        raise RunError(f"Nobody listens at {where} ({error}). Is the cluster up, and the address right?") from error
    try:
        urllib.request.urlopen(f"http://{where}/api/version", timeout=TRY_S).close()
    except (OSError, http.client.HTTPException):
        return where
    return f"http://{where}"


def _ended(found: JobDetails) -> Ended:
    from ray.job_submission import JobStatus

    message = _first_line(found.message or "")
    code = found.driver_exit_code
    if found.status == JobStatus.SUCCEEDED:
        return Ended(0, message, was_lost=False)
    if found.status == JobStatus.STOPPED:
        return Ended(INTERRUPTED, message, was_lost=False)
    # A shell says 128 + the signal that ended its command. No exit code of ours is as high but that after Ctrl-C.
    was_killed = code is not None and (code < 0 or code > 128) and code != INTERRUPTED
    was_lost = was_killed or found.error_type in LOST
    return Ended(code if code is not None and code > 0 else FAULT, message, was_lost)


def _first_line(what: object) -> str:
    return str(what).strip().partition("\n")[0].rstrip(".")
