"""Continuous batching for conversations: the default engine.

A fixed number of decode slots share one key-value cache. Whoever waits is prefilled into a free slot, whatever its
image and step; a finished sentence frees its slot at once, so decoding never waits for the slowest row. What depends on
an image alone is computed once, in batches, and held while the image is open. Greedy decoding in fp32 gives the texts
of `reference.py`. Where memory runs out, less is done at once from then on, and nothing is lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from vigc.model.completion import Request, seeds_of
from vigc.model.engines.base import NUDGE, BatchingEngine, Encode, ImageHandle, Job
from vigc.model.engines.continuous.batch import Asked, Batch, Prompted
from vigc.model.engines.continuous.capacity import MOST_CONTEXT, context_length, is_out_of_memory, slots_to_use
from vigc.model.engines.continuous.images import Images
from vigc.model.engines.detokenizer import banned_sequences
from vigc.model.engines.meter import PREFILL, Meter
from vigc.model.engines.scoring import Reading, Score, of_like_length, read, score
from vigc.model.network import Network
from vigc.platform.records import ConfigError, ModelError

_PATIENCE = 4  # decode steps that a waiting request may wait for company
_IMAGES, _IMAGES_ON_GPU = 16, 32  # seen at once; a GPU is to take longer for them than launching does


@dataclass
class _Limits:
    """What is done at once; halved when memory runs out."""

    slots: int
    images: int
    positions: int = 16_384  # of a prefill
    scored: int = 4096  # positions of a pass over given texts, padding counted


@dataclass(frozen=True)
class _Admitted:
    """A request that is prefilled next, so many of its candidates, and what the Q-Former remembers of its image."""

    asked: Asked
    number: int
    memory: Tensor


class ContinuousEngine(BatchingEngine):
    """See the module.

    Args:
        num_slots: None: as many as memory suggests.
        max_context: bounds visual tokens + prompt + answer, in tokens.
        memory_bytes: for slots and images; None: what is free.
        looks_late: see `batch.py`; None: on a GPU.
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
        looks_late: bool | None = None,
    ) -> None:
        length = context_length(network, max_context)
        num_slots = slots_to_use(network, length, num_slots, memory_bytes)
        self.meter = Meter(network.device)
        self._looks_late = network.device.type == "cuda" if looks_late is None else looks_late
        with torch.inference_mode():
            self._batch = Batch(network, num_slots, length, self.meter, looks_late=self._looks_late)
        self._images = Images(network, self.meter, most_held=2 * self._batch.num_slots)
        self._limits = _Limits(self._batch.num_slots, _IMAGES_ON_GPU if network.device.type == "cuda" else _IMAGES)
        self._waiting: list[Asked] = []
        self._scores: list[tuple[Job, Reading]] = []
        self._patience = self._score_patience = 0
        super().__init__(network, num_slots=self._batch.num_slots, num_threads=num_threads)

    @property
    def num_in_use(self) -> int:
        return len(self._batch)

    @property
    def occupancy(self) -> float:
        """Mean share of slots that were occupied in a decode step, since the start; 0 before the first."""
        steps = self.meter.num_steps
        return self.meter.num_occupied / (steps * self.num_slots) if steps else 0.0

    def new_meter(self) -> None:
        """Counts from now on; for an engine that has nothing to do."""
        self.meter = self._batch.meter = self._images.meter = Meter(self.network.device)

    def check(self, request: Request) -> None:
        super().check(request)
        if request.num_beams > 1:
            raise ConfigError(
                "The continuous engine decodes greedily or by sampling; beams are exact in --engine reference only."
            )

    def release(self, handle: ImageHandle) -> None:
        super().release(handle)
        self._images.release(handle)
        self._inbox.put(NUDGE)

    def _run(self) -> None:
        while True:
            idle = not (self._batch or self._waiting or self._scores or self._images.room > 0)
            if not self._read_inbox(block=idle):
                break
            self._score_some()
            self._admit_some()
            self._encode_some()  # behind a prefill, whose arithmetic hides the many launches of the vision model
            if self._batch:
                self._attempt(self._batch.jobs, partial(self._or_less, self._batch.step, self._decode_less))
        for job in {
            *self._images.waiting,
            *(job for job, _ in self._scores),
            *self._batch.jobs,
            *(asked.job for asked in self._waiting),
        }:
            job.fail(ModelError("The engine was closed."))

    def _enqueue(self, job: Job) -> None:
        if isinstance(job.work, Encode):
            self._images.waiting.append(job)
        elif isinstance(job.work, Reading):
            self._scores.append((job, job.work))
        else:
            self._waiting.append(_asked(job, job.work))

    def prepared(self, work: Request | Score | Encode) -> Prompted | Reading | Encode:
        if isinstance(work, Score):
            return read(self.network, work)
        return self._prompted(work) if isinstance(work, Request) else work

    def _prompted(self, request: Request) -> Prompted:
        network = self.network
        prompt = network.prompt_ids(request.prompt + request.prefix)
        needed = network.num_queries + len(prompt) + request.max_tokens + self._looks_late
        if needed > self._batch.length:
            raise ConfigError(
                f"A prompt of {len(prompt)} tokens with max_tokens {request.max_tokens} needs {needed} positions; the "
                f"engine has {self._batch.length}."
            )
        banned = banned_sequences(network.tokenizer, request.suppress)
        is_plain = not banned and not request.min_tokens and request.repetition_penalty == 1.0
        return Prompted(request, prompt, network.qformer_row(request.qformer_text), banned, is_plain)

    def _or_less(self, work: Callable[[], object], give_way: Callable[[], bool]) -> None:
        """Runs work; where memory runs out, less is done at once from then on.

        Args:
            give_way: lowers the limit and queues the jobs again; False: it cannot be any lower.
        """
        try:
            work()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if self.network.device.type == "cuda":
                torch.cuda.empty_cache()
            if not give_way():
                raise

    def _drop_cancelled(self) -> None:
        cancelled = {job for job in self._batch.jobs if job.cancelled.is_set()}
        cancelled |= {asked.job for asked in self._waiting if asked.job.cancelled.is_set()}
        cancelled |= {job for job, _ in self._scores if job.cancelled.is_set()}
        if cancelled:
            self._drop(cancelled)
        self._images.drop_cancelled()

    def _drop(self, jobs: set[Job]) -> None:
        """Forgets what these have in slots and in line."""
        self._waiting = [asked for asked in self._waiting if asked.job not in jobs]
        self._scores = [one for one in self._scores if one[0] not in jobs]
        self._batch.drop(jobs)

    # Images.

    def _encode_some(self) -> None:
        room = min(self._limits.images, self._images.room)
        waits = self._batch and len(self._images.held) >= self.num_slots and room < self._limits.images
        if room > 0 and not waits:  # while others keep the slots busy, a picture waits for company
            jobs = self._images.take(room)
            work = partial(self._images.see, jobs)
            self._attempt(jobs, partial(self._or_less, work, partial(self._encode_less, jobs)))

    def _encode_less(self, jobs: list[Job]) -> bool:
        self._limits.images = max(1, len(jobs) // 2)
        if len(jobs) > 1:
            self._images.waiting.extendleft(reversed(jobs))
        return len(jobs) > 1

    # Given texts.

    def _score_some(self) -> None:
        """Reads the texts that wait, together; while others decode, they wait a little for company."""
        if not self._scores:
            return
        self._score_patience += 1
        if self._batch and len(self._scores) < self.num_slots // 4 and self._score_patience < _PATIENCE:
            return
        self._score_patience = 0
        waiting, self._scores = self._scores, []
        for places in of_like_length([len(reading) for _, reading in waiting], self._limits.scored):
            group = [waiting[place] for place in places]
            work = partial(self._or_less, partial(self._score, group), partial(self._score_less, group))
            self._attempt([job for job, _ in group], work)

    def _score(self, group: list[tuple[Job, Reading]]) -> None:
        alive: list[tuple[Job, Reading, Tensor]] = []
        for job, reading in group:
            self._attempt([job], partial(self._recall, job, reading, alive))
        if not alive:
            return
        readings = [reading for _, reading, _ in alive]
        keys = [(job.image, reading.key) for job, reading, _ in alive]
        first = {key: place for place, key in reversed(list(enumerate(keys)))}  # of those with the same key
        row_of = {key: row for row, key in enumerate(first)}
        chosen = [alive[place] for place in first.values()]
        visual = self._images.visual([memory for *_, memory in chosen], [one.qformer_row for _, one, _ in chosen])
        with self.meter.part(PREFILL):
            scored = score(self.network, visual, readings, [row_of[key] for key in keys])
            self.meter.num_passes += 1
            self.meter.num_scored += sum(self.network.num_queries + len(one) for _, one, _ in chosen)
        for (job, *_), tokens in zip(alive, scored, strict=True):
            job.answer(tokens)

    def _recall(self, job: Job, reading: Reading, alive: list[tuple[Job, Reading, Tensor]]) -> None:
        alive.append((job, reading, self._images.memory(job.image)))  # it may have been closed this very moment

    def _score_less(self, group: list[tuple[Job, Reading]]) -> bool:
        self._limits.scored = max(1, max(len(one) for _, one in group) * len(group) // 2)
        if len(group) > 1:
            self._scores += group
        return len(group) > 1

    # Prompts.

    def _admit_some(self) -> None:
        """Prefills waiting requests, together: alone they would cost a whole forward pass each."""
        free = self._limits.slots - len(self._batch)
        if not self._waiting or free <= 0:
            return
        self._patience += 1
        if self._batch and min(len(self._waiting), free) < self.num_slots // 8 and self._patience < _PATIENCE:
            return
        self._patience = 0
        # Oldest image first: images finish one after the other instead of all at the end.
        self._waiting.sort(key=lambda asked: asked.job.image.order)
        for group in _in_groups(list(self._first(free)), self.network.num_queries, self._limits.positions):
            work = partial(self._or_less, partial(self._prefill, group), partial(self._prefill_less, group))
            self._attempt([one.asked.job for one in group], work)
        self._waiting = [asked for asked in self._waiting if asked.waiting]

    def _first(self, free: int) -> Iterator[_Admitted]:
        """Those at the head of the line, as many as there are free slots for."""
        for asked in list(self._waiting):
            try:
                memory = self._images.memory(asked.job.image)
            except ModelError as error:  # closed this very moment
                self._drop({asked.job})
                asked.job.fail(error)
                continue
            number = min(len(asked.waiting), free)
            free -= number
            yield _Admitted(asked, number, memory)
            if not free:
                return

    def _prefill(self, group: list[_Admitted]) -> None:
        visual = self._images.visual([one.memory for one in group], [one.asked.prompted.qformer_row for one in group])
        self._batch.prefill([one.asked for one in group], [one.number for one in group], visual)

    def _prefill_less(self, group: list[_Admitted]) -> bool:
        positions = sum(len(one.asked.prompted.prompt) + self.network.num_queries for one in group)
        self._limits.positions = max(1, positions // 2)
        return len(group) > 1

    def _decode_less(self) -> bool:
        """All slots begin anew, half as many at once."""
        if self._limits.slots == 1:
            return False
        self._limits.slots = max(1, min(self._limits.slots, len(self._batch)) // 2)
        self._waiting = list(dict.fromkeys([*self._waiting, *self._batch.evict()]))
        return True


def _asked(job: Job, prompted: Prompted) -> Asked:
    num = prompted.request.n
    return Asked(job, prompted, seeds=seeds_of(prompted.request), waiting=deque(range(num)), completions=[None] * num)


def _in_groups(chosen: list[_Admitted], num_queries: int, positions: int) -> list[list[_Admitted]]:
    """Groups to be prefilled together, of no more than so many positions."""
    groups: list[list[_Admitted]] = []
    filled = 0
    for one in chosen:
        length = len(one.asked.prompted.prompt) + num_queries
        if not groups or filled + length > positions:
            groups.append([])
            filled = 0
        groups[-1].append(one)
        filled += length
    return groups
