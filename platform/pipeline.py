"""The streaming graph on Ray Data: manifest, decode on CPU workers, an actor pool that talks about the images, rows
committed block by block.

Running a pass again continues it: Ray Data's ledger tells which images are committed, and only blocks that were under
way are made again. The model comes in from outside, as an actor class; nothing here knows what it does with a batch.
"""

from __future__ import annotations

import errno
import math
import warnings
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from vigc.platform.files import only_writer, store_error
from vigc.platform.images import decode_batch
from vigc.platform.local_ray import CPUS_PER_ACTOR, RunError, ray_session
from vigc.platform.pacing import pace
from vigc.platform.passes import LEDGER_FOLDER, MANIFEST_FOLDER, ROWS_FOLDER, Pass
from vigc.platform.progress import Progress, reported
from vigc.platform.records import ConfigError, VigcError
from vigc.platform.schema import ROW

if TYPE_CHECKING:
    import ray.data

__all__ = ["Progress", "RunError", "run"]

MAX_ROWS_PER_BLOCK = 32
# How often a block is tried again after the process at work on it died; Ray's own answer is: for ever.
MAX_RETRIES = 3
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def run(
    pass_: Pass,
    *,
    worker: type,
    worker_args: tuple[Any, ...] = (),
    image_size: int,
    num_slots: int,
    actors: int = 1,
    gpus_per_actor: float = 0,
    on_progress: Callable[[Progress], None] | None = None,
) -> None:
    """Makes the rows that the pass still lacks; does nothing, and starts no Ray, when it lacks none.

    Args:
        worker: an actor class, built once per actor with `worker_args`. Its `async def __call__(self, batch: pa.Table)`
            is an async generator that yields tables of schema.ROW, one row for each row of the batch, whose columns are
            those of images.DECODED. Many calls are under way at once, all on the event loop of the actor.
        image_size: side of the square pixels that the worker gets.
        num_slots: how many conversations the worker holds at once; it is kept supplied with four times as many images.
        on_progress: called about once a second, from another thread.
    Raises:
        StoreError: another process is writing the directory, or the file system refuses.
        RunError: an actor keeps dying, the worker raised, rows are lacking at the end, or nothing was finished for
            as long as RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S says (30 minutes).
        VigcError: of the worker's own, passed on as it is.
        KeyboardInterrupt: with a note on what is done.
    """
    if actors < 1 or num_slots < 1 or image_size < 1:
        raise ConfigError(f"actors ({actors}), num_slots ({num_slots}), image_size ({image_size}): 1 is the least.")
    out = pass_.path.parent.parent
    with only_writer(out):
        pass_.discard_uncommitted()
        remaining = pass_.remaining()
        with reported(pass_, on_progress):
            if remaining == 0:
                return
            with ray_session(pass_.path / "logs" / "ray.log", actors, gpus_per_actor) as logs:
                try:
                    dataset = _graph(
                        pass_, remaining, worker, worker_args, image_size, num_slots, actors, gpus_per_actor
                    )
                    dataset.write_parquet(ROWS_FOLDER, filesystem=pass_.files, schema=ROW)
                except KeyboardInterrupt as stop:
                    stop.add_note(_how_far(pass_))
                    raise
                except Exception as error:
                    raise _explained(error, pass_, logs) from error
        if lacking := pass_.remaining():
            raise RunError(f"The run ended, but {lacking} images have no row. `vigc verify {out}` says which.")


def _graph(
    pass_: Pass,
    remaining: int,
    worker: type,
    worker_args: tuple[Any, ...],
    image_size: int,
    num_slots: int,
    actors: int,
    gpus_per_actor: float,
) -> ray.data.Dataset:
    import ray.data
    from ray.data.checkpoint import CheckpointConfig

    block = rows_per_block(remaining, actors)
    context = ray.data.DataContext.get_current().copy()
    context.checkpoint_config = CheckpointConfig(
        id_column="image_id",
        checkpoint_path=LEDGER_FOLDER,
        override_filesystem=pass_.files,
        delete_checkpoint_on_success=False,
    )
    context.raise_original_map_exception = True
    pace(context)
    # Different resources keep Ray from fusing decode into the actor, where it would stall the event loop.
    resources: dict[str, Any] = {"num_cpus": CPUS_PER_ACTOR}
    if gpus_per_actor:
        resources = {"num_gpus": gpus_per_actor, "num_cpus": 0}
    decode: Callable[[Any], Any] = partial(decode_batch, image_size=image_size)
    with ray.data.DataContext.current(context), warnings.catch_warnings():
        # The limits on retries have no other way in; Ray 2.60 calls it deprecated and names no successor.
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        return (
            ray.data.read_parquet(MANIFEST_FOLDER, filesystem=pass_.files)
            .repartition(target_num_rows_per_block=block)  # what is committed, retried and lost at once
            .map_batches(
                decode,
                batch_size=block,
                batch_format="pyarrow",
                num_cpus=1,
                max_retries=MAX_RETRIES,
            )
            .map_batches(
                _Guarded,
                fn_constructor_args=(worker, worker_args),
                batch_size=block,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(
                    size=actors, max_concurrent_calls_per_actor=math.ceil(4 * num_slots / block)
                ),
                max_restarts=MAX_RETRIES,
                max_task_retries=MAX_RETRIES,
                **resources,
            )
        )


def rows_per_block(remaining: int, actors: int) -> int:
    """Few enough that every actor gets several blocks and a short run commits early; many enough for few files."""
    return max(1, min(MAX_ROWS_PER_BLOCK, remaining // (8 * actors)))


def _how_far(pass_: Pass) -> str:
    total = pass_.num_requested
    return f"{total - pass_.remaining()} of {total} images are committed; the same command continues from there."


class _WorkerFault(Exception):
    """Carries a worker's exception to the driver unchanged: Ray adds advice to the text of the one it sees."""


class _Guarded:
    """The worker; an exception of its constructor waits for the first batch, as Ray would report it as text only."""

    def __init__(self, worker: type, worker_args: tuple[Any, ...]) -> None:
        self._failure: Exception | None = None
        try:
            self._worker = worker(*worker_args)
        except Exception as error:  # noqa: BLE001  raised by the first batch
            self._failure = error

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        try:
            if self._failure is not None:
                raise self._failure
            async for rows in self._worker(batch):
                yield rows
        except Exception as error:
            raise _WorkerFault(error) from error


def _explained(error: Exception, pass_: Pass, logs: Path) -> VigcError:
    """What went wrong in the user's terms: the worker's own error if it is one, else a sentence and where to look."""
    from ray.data.exceptions import ExecutionTimeoutError
    from ray.exceptions import ActorDiedError, OutOfMemoryError, WorkerCrashedError

    cause = _root(error)
    if isinstance(cause, VigcError):
        return cause
    if isinstance(cause, OSError) and cause.errno in DISK_FULL:
        return store_error(pass_.path, cause)
    if isinstance(cause, ActorDiedError | WorkerCrashedError | OutOfMemoryError):
        what = (
            f"A process at work on a block of images died {MAX_RETRIES + 1} times, by a crash or for want of memory. "
            "If it happens again at the same point, one of the images that come next may be the cause"
        )
    elif isinstance(cause, ExecutionTimeoutError):
        what = f"Nothing was finished for too long: {cause}"
    else:
        what = f"The run broke off with {type(cause).__name__}: {cause}"
    return RunError(f"{what}. {_how_far(pass_)} Logs: {logs}")


def _root(error: BaseException) -> BaseException:
    """The exception that started it; Ray keeps the original of a remote one in `cause`."""
    from ray.data.exceptions import SystemException  # an empty marker that Ray puts underneath its own errors

    inner = error.args[0] if isinstance(error, _WorkerFault) else getattr(error, "cause", None) or error.__cause__
    return error if inner is None or isinstance(inner, SystemException) else _root(inner)
