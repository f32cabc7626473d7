"""The streaming graph on Ray Data: blocks, decode on CPU workers, an actor pool that talks about the images, commit.

Running a pass again continues it: the names of its files tell which blocks are committed, and only the others are made.
What machines do to a run (a process, an actor or a node dies) is Ray's to mend where it can, and else this module's: it
streams again what is not committed yet. The model comes in from outside, as an actor class; nothing here knows what it
does with a batch.
"""

from __future__ import annotations

import errno
import logging
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from vigc.platform.dataset.ledger import tidy
from vigc.platform.dataset.merging import Merger
from vigc.platform.dataset.passes import Pass
from vigc.platform.images.decode import MAX_PIXELS, decode_batch
from vigc.platform.pipeline.capacity import (
    Need,
    check_fits,
    check_shared,
    fitted_actors,
    grows_by_itself,
    size_of_cluster,
    too_small,
)
from vigc.platform.pipeline.graph import Graph
from vigc.platform.pipeline.progress import Counter, Progress, reported, tally_before
from vigc.platform.pipeline.ray_session import CPUS_PER_ACTOR, ray_session
from vigc.platform.pipeline.stall import StallDetector, Stalled
from vigc.platform.pipeline.stopping import stoppable
from vigc.platform.records import ConfigError, RunError, VigcError
from vigc.platform.storage import Folder, LocalFolder
from vigc.platform.storage.files import store_error
from vigc.platform.storage.lock import only_writer

if TYPE_CHECKING:
    from vigc.platform.pipeline.stages import Measure, StopFlag

_log = logging.getLogger(__name__)
__all__ = ["Progress", "RunError", "run"]

# How often Ray gives a block to another process after one died with it; its own answer is: for ever. An image that
# kills processes is caught below this (isolation.py), so these deaths are of machines.
MAX_RETRIES = 10
Decode = Callable[[pa.Table, int, int], pa.Table]  # manifest rows, image_size, max_pixels
MAX_STREAMS_WITHOUT_PROGRESS = 3
STUCK_AFTER_S, MAX_BEAT_S = 300.0, 10.0
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def run(
    pass_: Pass,
    *,
    worker: type,
    worker_args: tuple[Any, ...] = (),
    image_size: int,
    num_slots: int,
    actors: int | tuple[int, int] = 1,
    gpus_per_actor: float = 0,
    max_pixels: int = MAX_PIXELS,
    decode: Decode = decode_batch,
    measure: Measure | None = None,
    stuck_after_s: float = STUCK_AFTER_S,
    on_progress: Callable[[Progress], None] | None = None,
) -> None:
    """Makes the rows that the pass still lacks; does nothing, and starts no Ray, when it lacks none.

    Args:
        worker: a class, built once per actor with `worker_args`, in a process of its own. Its
            `async def __call__(self, batch: pa.Table)` is an async generator that yields tables of schema.ROW, one row
            for each row of the batch, in its order; the batch's columns are those of images.DECODED. Many calls are
            under way at once, all on the event loop of that process. A method `load() -> metrics.Load`, where there is
            one, tells how busy it is.
        image_size: side of the square pixels that the worker gets.
        num_slots: how many conversations the worker holds at once; it is kept supplied with four times as many images.
        actors: how many; or the least and the most, between which Ray adds and removes them by the work there is.
        max_pixels: larger pictures are not decoded.
        decode: manifest rows in, rows of images.DECODED out; `image_size` is what it takes it for.
        measure: gets rows of schema.ROW and returns them with more known of them, on CPU workers, before they are
            committed; the same however often it is called.
        stuck_after_s: when no process was at work on any block for so long, the run begins again from what is
            committed; see watch.py.
        on_progress: called about once a second, from another thread.
    Raises:
        StoreError: another process is writing the directory, or the file system refuses.
        ConfigError: the cluster is too small and does not grow.
        RunError: processes keep dying, the worker raised, the cluster shrank too far, the run was stuck again and
            again, or nothing was finished for as long as RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S says (30 minutes).
        VigcError: of the worker's own, passed on as it is.
        KeyboardInterrupt: with a note on what is done. The first Ctrl-C lets what is under way finish, a second not.
    """
    least, most = (actors, actors) if isinstance(actors, int) else actors
    if least < 1 or most < least or num_slots < 1 or image_size < 1:
        raise ConfigError(f"actors ({actors}), num_slots ({num_slots}), image_size ({image_size}): 1 is the least.")
    graph = Graph(
        decode=decode,
        worker=worker,
        worker_args=worker_args,
        image_size=image_size,
        num_slots=num_slots,
        min_actors=least,
        max_actors=most,
        gpus_per_actor=gpus_per_actor,
        max_pixels=max_pixels,
        measure=measure,
        max_retries=MAX_RETRIES,
    )
    out = type(pass_.folder)(pass_.folder.uri.rsplit("/", 2)[0])
    with only_writer(out) as lost:
        ledger = pass_.ledger()
        tidy(pass_.folder, ledger)
        counter = Counter(pass_.num_requested, tally_before(pass_.folder, ledger))
        merger = Merger(pass_.folder, ledger)
        try:
            with reported(counter, on_progress):
                if any(ledger.remaining()):
                    with ray_session(_log_file(pass_.folder), most * CPUS_PER_ACTOR, most * gpus_per_actor) as logs:
                        _Stream(pass_, graph, counter, merger, lost, stuck_after_s).run_to_the_end(logs)
                merger.finish()
                tidy(pass_.folder, pass_.ledger())
        finally:
            merger.close()


class _Stream:
    """One run of a pass on a Ray that is there."""

    def __init__(
        self,
        pass_: Pass,
        graph: Graph,
        counter: Counter,
        merger: Merger,
        lost: threading.Event,
        stuck_after_s: float,
    ) -> None:
        self._pass, self._graph, self._counter, self._merger, self._lost = pass_, graph, counter, merger, lost
        self._stuck_after_s = stuck_after_s
        self._committed: set[tuple[int, int]] = set()

    def run_to_the_end(self, logs: Path) -> None:
        """Streams until nothing is lacking, again where machines failed, as long as that gets on."""
        check_fits(self._graph.min_actors, self._graph.gpus_per_actor)
        check_shared(self._pass.folder)
        in_vain, is_stuck = 0, False
        with stoppable(self._counter, min(MAX_BEAT_S, self._stuck_after_s / 4)) as (stop, is_drained):
            while remaining := self._remaining():
                before = self._counter.num_made
                try:
                    self._stream_once(remaining, self._fitted(is_stuck), stop, is_drained)
                    if self._counter.num_made == before and not self._counter.is_stopping:
                        raise RunError(f"The run made nothing of {len(remaining)} shards, and nothing failed.")
                except KeyboardInterrupt as interrupt:
                    interrupt.add_note(self._how_far())
                    raise
                except Exception as error:
                    in_vain = 0 if self._counter.num_made > before else in_vain + 1
                    if not _is_of_machines(error) or in_vain >= MAX_STREAMS_WITHOUT_PROGRESS:
                        raise self._explained(error, logs) from error
                    is_stuck = isinstance(_root(error), Stalled)
                    what = _root(error) if is_stuck else f"Processes or machines failed ({_first_line(_root(error))})"
                    now = self._counter.read()
                    _log.warning(
                        "%s. Starting again from what is committed: %d of %d images.", what, now.done, now.total
                    )
                if self._counter.is_stopping:
                    raise _noted(KeyboardInterrupt(), self._how_far())

    def _remaining(self) -> list[tuple[int, list[int]]]:
        """From storage, since a block may have been committed by a task whose answer never came."""
        return list(self._pass.ledger().remaining())

    def _fitted(self, is_stuck: bool) -> Graph:
        """With no more actors than the cluster holds, where it does not grow or did not although Ray was stuck."""
        graph, size = self._graph, size_of_cluster()
        if grows_by_itself() and not is_stuck:
            return graph
        least, most = fitted_actors(graph.min_actors, graph.max_actors, graph.gpus_per_actor, size)
        need = Need(least, graph.gpus_per_actor)
        if not need.fits(size) and not grows_by_itself():
            raise RunError(f"{too_small(size, need)} {self._how_far()}")
        if (least, most) != (graph.min_actors, graph.max_actors):
            _log.warning("The cluster has %s, which leaves room for %d of the %d actors.", size, most, graph.max_actors)
        return replace(graph, min_actors=least, max_actors=most)

    def _stream_once(
        self, remaining: list[tuple[int, list[int]]], graph: Graph, stop: StopFlag, is_drained: threading.Event
    ) -> None:
        from vigc.platform.pipeline.stages import committed_of

        watch = StallDetector(stop, Need(graph.min_actors, graph.gpus_per_actor), self._stuck_after_s)
        dataset = graph.dataset(self._pass, remaining, stop, watch)
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            if self._lost.is_set():
                raise RunError("The lock was lost to another process, which writes here now. This run ends.")
            for committed in committed_of(batch):
                if committed.tally is not None and committed.block not in self._committed:
                    self._committed.add(committed.block)
                    self._counter.add(committed.tally)
                    self._merger.add(committed)
            if is_drained.is_set():
                return  # what is left are blocks that were not begun, thousands of them perhaps

    def _how_far(self) -> str:
        now = self._counter.read()
        return f"{now.done} of {now.total} images are committed; the same command continues from there."

    def _explained(self, error: Exception, logs: Path) -> VigcError:
        """What went wrong in the user's terms: the worker's own error, or else a sentence and where to look."""
        from ray.data.exceptions import ExecutionTimeoutError
        from ray.exceptions import RayTaskError

        cause = _root(error)
        if isinstance(cause, VigcError):
            return cause
        if isinstance(cause, OSError) and cause.errno in DISK_FULL:
            return store_error(str(self._pass.folder), cause)
        if isinstance(cause, Stalled):
            what = f"{cause}, again and again"
        elif isinstance(cause, ExecutionTimeoutError):
            what = f"Nothing was finished for too long: {cause}"
        elif _is_of_machines(error) and not isinstance(cause, RayTaskError):
            what = f"Processes at work on the images died again and again, the last time with {type(cause).__name__}"
        else:
            what = f"The run broke off with {type(cause).__name__}: {cause}"
        return RunError(f"{what}. {self._how_far()} Logs: {logs}")


def _is_of_machines(error: BaseException) -> bool:
    """Whether processes or nodes failed, and not what they were doing."""
    from ray.data.exceptions import ExecutionTimeoutError
    from ray.exceptions import RayError, RayTaskError

    cause = _root(error)
    return isinstance(cause, RayError | ExecutionTimeoutError | Stalled) and not isinstance(cause, RayTaskError)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(".")


def _root(error: BaseException) -> BaseException:
    """The exception that started it; Ray keeps the original of a remote one in `cause`."""
    from ray.data.exceptions import SystemException  # an empty marker that Ray puts underneath its own errors

    from vigc.platform.pipeline.stages import WorkerFault

    inner = error.args[0] if isinstance(error, WorkerFault) else getattr(error, "cause", None) or error.__cause__
    return error if inner is None or isinstance(inner, SystemException) else _root(inner)


def _noted(stop: KeyboardInterrupt, note: str) -> KeyboardInterrupt:
    stop.add_note(note)
    return stop


def _log_file(folder: Folder) -> Path:
    """Beside the rows where those are on this machine, else in a temporary folder that stays."""
    if isinstance(folder, LocalFolder):
        return folder.path / "logs" / "ray.log"
    return Path(tempfile.mkdtemp(prefix="vigc-logs-")) / "ray.log"
