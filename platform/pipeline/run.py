"""Runs a pass: streams its blocks through the graph on Ray Data until all are committed.

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
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from vigc.platform.dataset.ledger import tidy
from vigc.platform.dataset.merging import Merger
from vigc.platform.dataset.passes import Pass
from vigc.platform.pipeline.capacity import (
    check_fits,
    check_shared,
    fitted_actors,
    grows_by_itself,
    size_of_cluster,
    too_small,
)
from vigc.platform.pipeline.graph import Graph
from vigc.platform.pipeline.heartbeat import Heartbeat, Stalled, heartbeat_of_run
from vigc.platform.pipeline.progress import Counter, OnProgress, Progress, reported, tally_before
from vigc.platform.pipeline.ray_session import CPUS_PER_ACTOR, ray_session
from vigc.platform.records import RunError, VigcError
from vigc.platform.storage import Folder, LocalFolder
from vigc.platform.storage.files import store_error
from vigc.platform.storage.lock import only_writer

_log = logging.getLogger(__name__)
__all__ = ["Graph", "Progress", "RunError", "StoppedEarly", "run"]

MAX_STREAMS_WITHOUT_PROGRESS = 3
STALL_TIMEOUT_S = 300.0
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def run(
    pass_: Pass,
    graph: Graph,
    *,
    stall_timeout_s: float = STALL_TIMEOUT_S,
    on_progress: OnProgress | None = None,
) -> None:
    """Makes the rows that the pass still lacks; does nothing, and starts no Ray, when it lacks none.

    Args:
        stall_timeout_s: when no process was at work on any block for so long, the run begins again from what is
            committed; see heartbeat.py.
        on_progress: called about once a second, from another thread; where it returns True, what is under way is
            finished and the run ends with a StoppedEarly.
    Raises:
        StoppedEarly: `on_progress` said that it is enough.
        StoreError: another process is writing the directory, or the file system refuses.
        ConfigError: the cluster is too small and does not grow.
        RunError: processes keep dying, the worker raised, the cluster shrank too far, the run stalled again and again,
            or nothing was finished for as long as RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S says (30 minutes).
        VigcError: of the worker's own, passed on as it is.
        KeyboardInterrupt: with a note on what is done. The first Ctrl-C lets what is under way finish, a second not.
    """
    out = type(pass_.folder)(pass_.folder.uri.rsplit("/", 2)[0])
    with only_writer(out) as lost:
        ledger = pass_.ledger()
        tidy(pass_.folder, ledger)
        counter = Counter(pass_.num_requested, tally_before(pass_.folder, ledger))
        merger = Merger(pass_.folder, ledger)
        try:
            with reported(counter, on_progress):
                if any(ledger.remaining()):
                    if counter.is_stopping:
                        raise StoppedEarly(how_far(counter))
                    with _session(pass_, graph) as logs:
                        _Stream(pass_, graph, counter, merger, lost, stall_timeout_s).run_to_the_end(logs)
                merger.finish()
                tidy(pass_.folder, pass_.ledger())
        finally:
            merger.close()


class StoppedEarly(RunError):
    """Whoever watches the run had enough of it."""


class _Stream:
    """One run of a pass on a Ray that runs."""

    def __init__(
        self,
        pass_: Pass,
        graph: Graph,
        counter: Counter,
        merger: Merger,
        lost: threading.Event,
        stall_timeout_s: float,
    ) -> None:
        self._pass, self._graph, self._counter, self._merger, self._lost = pass_, graph, counter, merger, lost
        self._stall_timeout_s = stall_timeout_s
        self._committed: set[tuple[int, int]] = set()

    def run_to_the_end(self, logs: Path) -> None:
        """Streams until no block is left; again where machines failed, as long as each time some are committed."""
        check_fits(self._graph.need)
        check_shared(self._pass.folder)
        in_vain, has_stalled = 0, False
        rows_per_block = self._pass.layout.rows_per_block
        watched = heartbeat_of_run(self._counter, rows_per_block, self._stall_timeout_s)
        with watched as (heartbeat, is_drained):
            while remaining := self._remaining():
                before = self._counter.num_made
                try:
                    self._stream_once(remaining, self._fitted(has_stalled), heartbeat, is_drained)
                    if self._counter.num_made == before and not self._counter.is_stopping:
                        raise RunError(f"The run made nothing of {len(remaining)} shards, and nothing failed.")
                except KeyboardInterrupt as interrupt:
                    interrupt.add_note(self._how_far())
                    raise
                except Exception as error:
                    in_vain = 0 if self._counter.num_made > before else in_vain + 1
                    if not _is_of_machines(error) or in_vain >= MAX_STREAMS_WITHOUT_PROGRESS:
                        raise self._explained(error, logs) from error
                    cause = _root(error)
                    has_stalled = isinstance(cause, Stalled)
                    what = cause if has_stalled else f"Processes or machines failed ({_first_line(cause)})"
                    now = self._counter.read()
                    _log.warning(
                        "%s. Starting again from what is committed: %d of %d images.", what, now.done, now.total
                    )
                if self._counter.is_stopping:
                    if self._counter.was_interrupted:
                        raise _noted(KeyboardInterrupt(), self._how_far())
                    raise StoppedEarly(self._how_far())

    def _remaining(self) -> list[tuple[int, list[int]]]:
        """Blocks that are not on storage: one may have been committed by a task whose answer never came."""
        return list(self._pass.ledger().remaining())

    def _fitted(self, has_stalled: bool) -> Graph:
        """The graph with no more actors than the cluster holds, where that does not grow or Ray has stalled."""
        graph, size = self._graph, size_of_cluster()
        if grows_by_itself() and not has_stalled:
            return graph
        least, most = fitted_actors(graph.min_actors, graph.max_actors, graph.gpus_per_actor, size)
        fitted = replace(graph, min_actors=least, max_actors=most)
        if not fitted.need.fits(size) and not grows_by_itself():
            raise RunError(f"{too_small(size, fitted.need)} {self._how_far()}")
        if (least, most) != (graph.min_actors, graph.max_actors):
            _log.warning("The cluster has %s, which leaves room for %d of the %d actors.", size, most, graph.max_actors)
        return fitted

    def _stream_once(
        self, remaining: list[tuple[int, list[int]]], graph: Graph, heartbeat: Heartbeat, is_drained: threading.Event
    ) -> None:
        from vigc.platform.pipeline.commit_stage import committed_files

        dataset = graph.dataset(self._pass, remaining, heartbeat)
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            if self._lost.is_set():
                raise RunError("The lock was lost to another process, which writes here now. This run ends.")
            for block, committed in committed_files(batch):
                if committed.tally is not None and block not in self._committed:
                    self._committed.add(block)
                    self._counter.add(committed.tally)
                    self._merger.add(block, committed)
            if is_drained.is_set():
                return  # what is left are blocks that were not begun, thousands of them perhaps

    def _how_far(self) -> str:
        return how_far(self._counter)

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


def how_far(counter: Counter) -> str:
    now = counter.read()
    return f"{now.done} of {now.total} images are committed; the same command continues from there."


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

    from vigc.platform.pipeline.block_batch import StageError

    inner = error.args[0] if isinstance(error, StageError) else getattr(error, "cause", None) or error.__cause__
    return error if inner is None or isinstance(inner, SystemException) else _root(inner)


def _noted(stop: KeyboardInterrupt, note: str) -> KeyboardInterrupt:
    stop.add_note(note)
    return stop


def _session(pass_: Pass, graph: Graph) -> AbstractContextManager[Path]:
    """A Ray with room for the most actors; gives where its logs are."""
    cpus, gpus = graph.max_actors * CPUS_PER_ACTOR, graph.max_actors * graph.gpus_per_actor
    return ray_session(_log_file(pass_.folder), cpus, gpus)


def _log_file(folder: Folder) -> Path:
    """The log file: beside the rows where those are on this machine, else in a temporary folder that stays."""
    if isinstance(folder, LocalFolder):
        return folder.path / "logs" / "ray.log"
    return Path(tempfile.mkdtemp(prefix="vigc-logs-")) / "ray.log"
