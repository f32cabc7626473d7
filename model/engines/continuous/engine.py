"""Continuous batching for conversations: the default engine.

A fixed number of decode slots share one key-value cache. Whoever waits is prefilled into a free slot, whatever its
image and step; a finished sentence frees its slot at once, so decoding never waits for the slowest row. What depends on
an image alone is computed once, in batches, and held while the image is open. Greedy decoding in fp32 gives the texts
of `reference.py`. Where memory runs out, less is done at once from then on, and nothing is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vigc.model.completion import Request
from vigc.model.engines.base import WAKE_UP, BatchingEngine, Encode, EngineJob, ImageHandle, Work
from vigc.model.engines.continuous.batch import DecodeBatch, RequestJob
from vigc.model.engines.continuous.capacity import MOST_CONTEXT, context_length, is_out_of_memory, slots_to_use
from vigc.model.engines.continuous.images import Images
from vigc.model.engines.metrics import PREFILL, EngineMetrics
from vigc.model.engines.scoring import ScoreRequest, TokenizedText, of_like_length, read, score
from vigc.model.engines.tokenized import TokenizedRequest, tokenize_request
from vigc.model.network import Network
from vigc.platform.records import ConfigError, ModelError

_PATIENCE = 4  # decode steps that a waiting request may wait for others, to be read together with them
_IMAGES, _IMAGES_ON_GPU = 16, 32  # encoded at once; a GPU is to take longer for them than launching does
_PREFILLED = 16_384  # positions of a prefill
_SCORED = 4096  # positions of a pass over given texts, padding counted

ScoreJob = EngineJob[TokenizedText]


@dataclass
class _BackoffLimit:
    """How much is done at once; it falls when memory runs out."""

    most: int


@dataclass(frozen=True)
class _Admitted:
    """A request of which so many candidates are prefilled next, and what the Q-Former remembers of its image."""

    job: RequestJob
    num_candidates: int
    memory: Tensor


class ContinuousEngine(BatchingEngine):
    """See the module.

    Args:
        num_slots: None: as many as memory suggests.
        max_context: bounds visual tokens + prompt + answer, in tokens.
        memory_bytes: for slots and images; None: what is free.
        async_scheduling: see `batch.py`; None: on a GPU.
    Raises:
        ConfigError: not even one slot fits into memory.
    """

    def __init__(
        self,
        network: Network,
        *,
        num_slots: int | None = None,
        num_threads: int | None = None,
        max_context: int = MOST_CONTEXT,
        memory_bytes: int | None = None,
        async_scheduling: bool | None = None,
    ) -> None:
        length = context_length(network, max_context)
        num_slots = slots_to_use(network, length, num_slots, memory_bytes)
        self.metrics = EngineMetrics(network.device)
        self._async = network.device.type == "cuda" if async_scheduling is None else async_scheduling
        with torch.inference_mode():
            self._batch = DecodeBatch(network, num_slots, length, self.metrics, async_scheduling=self._async)
        self._images = Images(network, self.metrics, most_held=2 * self._batch.num_slots)
        self._slots_at_once = _BackoffLimit(self._batch.num_slots)
        self._images_at_once = _BackoffLimit(_IMAGES_ON_GPU if network.device.type == "cuda" else _IMAGES)
        self._prefilled_at_once, self._scored_at_once = _BackoffLimit(_PREFILLED), _BackoffLimit(_SCORED)
        self._waiting: list[RequestJob] = []
        self._scores: list[ScoreJob] = []
        self._patience = self._score_patience = 0
        super().__init__(network, num_slots=self._batch.num_slots, num_threads=num_threads)

    @property
    def num_in_use(self) -> int:
        return len(self._batch)

    @property
    def occupancy(self) -> float:
        """Mean share of slots that were occupied in a decode step, since the start; 0 before the first."""
        steps = self.metrics.num_steps
        return self.metrics.num_occupied / (steps * self.num_slots) if steps else 0.0

    def reset_metrics(self) -> None:
        """Counts from now on; for an engine that has nothing to do."""
        self.metrics = self._batch.metrics = self._images.metrics = EngineMetrics(self.network.device)

    def check(self, request: Request) -> None:
        super().check(request)
        if request.num_beams > 1:
            raise ConfigError(
                "The continuous engine decodes greedily or by sampling; beams are exact in --engine reference only."
            )

    def release(self, handle: ImageHandle) -> None:
        super().release(handle)
        self._images.release(handle)
        self._inbox.put(WAKE_UP)

    def _run(self) -> None:
        while True:
            idle = not (self._batch or self._waiting or self._scores or self._images.room > 0)
            if not self._read_inbox(block=idle):
                break
            self._score_some()
            self._admit_some()
            self._encode_some()  # behind a prefill, whose arithmetic hides the many launches of the vision model
            if self._batch:
                num = len(self._batch)
                self._attempt_or_halve(
                    self._batch.jobs, self._batch.step, self._slots_at_once, num, requeue=self._preempt
                )
        unanswered: list[EngineJob[Any]] = [*self._images.waiting, *self._scores, *self._batch.jobs, *self._waiting]
        for job in dict.fromkeys(unanswered):
            job.fail(ModelError("The engine was closed."))

    def _enqueue(self, job: EngineJob[Any]) -> None:
        if isinstance(job.work, Encode):
            self._images.waiting.append(job)
        elif isinstance(job.work, TokenizedText):
            self._scores.append(job)
        else:
            self._waiting.append(job)

    def prepared(self, work: Request | ScoreRequest | Encode) -> TokenizedRequest | TokenizedText | Encode:
        if isinstance(work, ScoreRequest):
            return read(self.network, work)
        if isinstance(work, Request):
            return tokenize_request(self.network, work, self._batch.length - self._async)
        return work

    def _attempt_or_halve(
        self,
        jobs: Sequence[EngineJob[Any]],
        work: Callable[[], object],
        limit: _BackoffLimit,
        size: int,
        requeue: Callable[[], object],
    ) -> None:
        """As `_attempt`; but where memory runs out for several jobs, they wait again, and half is done at once from
        then on.

        Args:
            size: of this work, as the limit counts it.
            requeue: puts the jobs back into their queue.
        """

        def attempt() -> None:
            try:
                work()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if self.network.device.type == "cuda":
                    torch.cuda.empty_cache()
                if len(jobs) == 1:
                    raise
                limit.most = max(1, size // 2)
                requeue()

        self._attempt(jobs, attempt)

    def _with_memory(self, jobs: Sequence[EngineJob[Work]]) -> list[tuple[EngineJob[Work], Tensor]]:
        """These with what the Q-Former remembers of their images; those whose image has just been closed fail."""
        found: list[tuple[EngineJob[Work], Tensor]] = []
        for job in jobs:
            self._attempt([job], lambda job=job: found.append((job, self._images.memory(job.image))))  # type: ignore[misc]
        return found

    def _drop_cancelled(self) -> None:
        jobs: list[EngineJob[Any]] = [*self._batch.jobs, *self._waiting, *self._scores]
        if cancelled := {job for job in jobs if job.cancelled.is_set()}:
            self._drop(cancelled)
        self._images.drop_cancelled()

    def _drop(self, jobs: set[EngineJob[Any]]) -> None:
        self._waiting = [job for job in self._waiting if job not in jobs]
        self._scores = [job for job in self._scores if job not in jobs]
        self._batch.drop(jobs)

    # Images.

    def _encode_some(self) -> None:
        most = self._images_at_once.most
        num = min(most, self._images.room)
        waits = self._batch and len(self._images.held) >= self.num_slots and num < most
        if num > 0 and not waits:  # while others keep the slots busy, an image waits for more
            jobs = self._images.take(num)
            requeue = partial(self._images.waiting.extendleft, reversed(jobs))
            self._attempt_or_halve(jobs, partial(self._images.see, jobs), self._images_at_once, num, requeue)

    # Given texts.

    def _score_some(self) -> None:
        """Reads the texts that wait, together; while others decode, they wait a little for more."""
        if not self._scores:
            return
        self._score_patience += 1
        if self._batch and len(self._scores) < self.num_slots // 4 and self._score_patience < _PATIENCE:
            return
        self._score_patience = 0
        waiting, self._scores = self._scores, []
        for places in of_like_length([len(job.work) for job in waiting], self._scored_at_once.most):
            group = [waiting[place] for place in places]
            size = max(len(job.work) for job in group) * len(group)
            requeue = partial(self._requeue_scores, group)
            self._attempt_or_halve(group, partial(self._score, group), self._scored_at_once, size, requeue)

    def _score(self, group: list[ScoreJob]) -> None:
        alive = self._with_memory(group)
        if not alive:
            return
        keys = [(job.image, job.work.key) for job, _ in alive]
        first = {key: place for place, key in reversed(list(enumerate(keys)))}  # of those with the same key
        row_of = {key: row for row, key in enumerate(first)}
        chosen = [alive[place] for place in first.values()]
        visual = self._images.visual([memory for _, memory in chosen], [job.work.qformer_row for job, _ in chosen])
        with self.metrics.part(PREFILL):
            scored = score(self.network, visual, [job.work for job, _ in alive], [row_of[key] for key in keys])
            self.metrics.num_passes += 1
            self.metrics.num_scored += sum(self.network.num_queries + len(job.work) for job, _ in chosen)
        for (job, _), tokens in zip(alive, scored, strict=True):
            job.answer(tokens)

    def _requeue_scores(self, group: list[ScoreJob]) -> None:
        self._scores += group

    # Prompts.

    def _admit_some(self) -> None:
        """Prefills waiting requests, together: alone they would cost a whole forward pass each."""
        free = self._slots_at_once.most - len(self._batch)
        if not self._waiting or free <= 0:
            return
        self._patience += 1
        if self._batch and min(len(self._waiting), free) < self.num_slots // 8 and self._patience < _PATIENCE:
            return
        self._patience = 0
        # Oldest image first: images finish one after the other instead of all at the end.
        self._waiting.sort(key=lambda job: job.image.order)
        for group in _in_groups(self._first(free), self.network.num_queries, self._prefilled_at_once.most):
            size = sum(len(one.job.work.prompt) + self.network.num_queries for one in group)
            self._attempt_or_halve(
                [one.job for one in group],
                partial(self._prefill, group),
                self._prefilled_at_once,
                size,
                requeue=lambda: None,  # what is still pending stays in the queue
            )
        self._waiting = [job for job in self._waiting if job.work.pending]

    def _first(self, free: int) -> list[_Admitted]:
        """Those at the head of the queue, as many as there are free slots for."""
        admitted = []
        for job, memory in self._with_memory(self._waiting):
            num = min(len(job.work.pending), free)
            admitted.append(_Admitted(job, num, memory))
            free -= num
            if not free:
                break
        return admitted

    def _prefill(self, group: list[_Admitted]) -> None:
        visual = self._images.visual([one.memory for one in group], [one.job.work.qformer_row for one in group])
        self._batch.prefill([one.job for one in group], [one.num_candidates for one in group], visual)

    def _preempt(self) -> None:
        """All slots begin anew."""
        self._waiting = list(dict.fromkeys([*self._waiting, *self._batch.preempt()]))


def _in_groups(chosen: list[_Admitted], num_queries: int, positions: int) -> list[list[_Admitted]]:
    """Groups to be prefilled together, of no more than so many positions."""
    groups: list[list[_Admitted]] = []
    filled = 0
    for one in chosen:
        length = len(one.job.work.prompt) + num_queries
        if not groups or filled + length > positions:
            groups.append([])
            filled = 0
        groups[-1].append(one)
        filled += length
    return groups
