"""The conversations that are decoded at the same time: prompts come into free slots, each step adds a token to every
slot, and whoever is done makes room.

With `async_scheduling`, a step is launched before the tokens of the one before are read, so that a GPU never waits for
Python. A slot that turns out to be done has then decoded one token too many, which is dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vigc.model.engines.base import EngineJob
from vigc.model.engines.continuous.attention import Prompts
from vigc.model.engines.continuous.cache import SlotCache
from vigc.model.engines.continuous.capacity import is_out_of_memory
from vigc.model.engines.continuous.decoder import Decoder
from vigc.model.engines.continuous.graphs import Recorded
from vigc.model.engines.continuous.sampler import greedy, sampled
from vigc.model.engines.detokenizer import Pieces, Transcript
from vigc.model.engines.metrics import DECODE, HOST, PREFILL, EngineMetrics
from vigc.model.engines.tokenized import TokenizedRequest, banned_tokens
from vigc.model.network import Network, upload

# Share of the slots of a step that are to be occupied; else those at the end move into the gaps. On a GPU only after so
# many such steps: a gap costs little there, moving much, and the next prompts often come at once.
_FULL_ENOUGH, _PATIENCE = 0.9, 8


RequestJob = EngineJob[TokenizedRequest]


@dataclass(eq=False)
class _Slot:
    job: RequestJob
    candidate: int
    transcript: Transcript
    length: int  # positions in the cache
    generator: torch.Generator | None  # None: greedy
    done: bool = False


@dataclass
class _NextTokens:
    """Tokens that have been chosen for these slots, or gaps, and not been read."""

    slots: list[_Slot | None]
    tokens: Tensor
    logprobs: Tensor
    ready: torch.cuda.Event | None = None


class DecodeBatch:
    """See the module. `num_slots` may come out smaller, where there is no memory for so many."""

    def __init__(
        self, network: Network, num_slots: int, length: int, metrics: EngineMetrics, *, async_scheduling: bool
    ) -> None:
        self._network, self.metrics, self._async_scheduling = network, metrics, async_scheduling
        self._decoder = Decoder(network, length)
        self._cache = _allocate(network, num_slots, length)
        self.num_slots, self.length = len(self._cache.positions), length
        self._next = torch.zeros(self.num_slots, dtype=torch.long, device=network.device)  # what each slot reads next
        self._step = Recorded(self._decoder, self._next, self._cache) if async_scheduling else self._decoder.step
        self._pieces = Pieces(network.tokenizer)
        self._slots: list[_Slot | None] = []  # None: a gap
        self._unread: deque[_NextTokens] = deque()
        self._patience = 0

    def __len__(self) -> int:
        """Occupied slots."""
        return sum(slot is not None for slot in self._slots)

    @property
    def jobs(self) -> list[RequestJob]:
        return [slot.job for slot in self._slots if slot is not None]

    def prefill(self, jobs: Sequence[RequestJob], nums: Sequence[int], visual: Tensor) -> None:
        """Takes some of the pending candidates of each request; they share the reading of the prompt.

        Args:
            nums: how many of each.
            visual: (len(jobs), num_queries, language_width), in the network's dtype.
        """
        with self.metrics.part(PREFILL):
            lengths = [self._network.num_queries + len(job.work.prompt) for job in jobs]
            free = self._free()
            places = [[next(free) for _ in range(number)] for number in nums]
            first = [own[0] for own in places]
            embeds, prompts = self._pack_prompts(jobs, lengths, first, visual)
            logits = self._decoder.prefill(embeds, prompts, self._cache)
            if max(nums) > 1:
                for (source, *targets), length in zip(places, lengths, strict=True):
                    for target in targets:
                        self._cache.copy(source, target, length)
                logits = logits[self._upload([row for row, own in enumerate(places) for _ in own])]
            added = {
                place: self._new_slot(job, job.work.pending[nth], length)
                for job, own, length in zip(jobs, places, lengths, strict=True)
                for nth, place in enumerate(own)
            }
            occupied = self._upload([*added, *(slot.length for slot in added.values())])
            into, positions = occupied.chunk(2)
            self._choose_tokens(logits, list(added.values()), into)
            self._cache.occupy(into, positions)
            self._slots += [None] * (max(added) + 1 - len(self._slots))
            for place, new in added.items():
                self._slots[place] = new
                new.job.work.pending.remove(new.candidate)
            self.metrics.num_prefilled += sum(lengths)
        if not self._async_scheduling:
            self._read_tokens()
            self._make_room()

    def _free(self) -> Iterator[int]:
        yield from (place for place, slot in enumerate(self._slots) if slot is None)
        yield from range(len(self._slots), self.num_slots)

    def _pack_prompts(
        self, jobs: Sequence[RequestJob], lengths: list[int], slots: list[int], visual: Tensor
    ) -> tuple[Tensor, Prompts]:
        """Visual tokens and prompts of all, one behind the other, (tokens, width)."""
        num_queries = self._network.num_queries
        long, ends = torch.tensor(lengths), torch.tensor(lengths).cumsum(0)
        total = int(ends[-1])
        positions = torch.arange(total) - (ends - long).repeat_interleave(long)
        seen, read = (positions < num_queries).nonzero()[:, 0], (positions >= num_queries).nonzero()[:, 0]
        ids = torch.tensor([token for job in jobs for token in job.work.prompt])
        parts = (torch.tensor(slots).repeat_interleave(long), positions, seen, read, ids, functional.pad(ends, (1, 0)))
        uploaded = upload(torch.cat(parts), self._network.device).split([len(part) for part in parts])
        of_slots, positions, seen, read, ids, starts = uploaded
        embeds = visual.new_empty(total, visual.shape[-1])
        embeds[seen] = visual.flatten(0, 1)
        embeds[read] = self._network.embed(ids)
        return embeds, Prompts(of_slots, positions, starts.int(), max(lengths))

    def step(self) -> None:
        """One token for every slot."""
        with self.metrics.part(DECODE):
            occupied = [slot for slot in self._slots if slot is not None]
            width = max(slot.length for slot in occupied) + 1
            logits = self._step(self._next[: len(self._slots)], self._cache, width)
            for slot in occupied:
                slot.length += 1
            self.metrics.num_steps += 1
            self.metrics.num_occupied += len(occupied)
            self.metrics.num_seen += sum(slot.length for slot in occupied)
            self._choose_tokens(logits, list(self._slots))
        self._read_tokens(keep=1 if self._async_scheduling else 0)
        self._make_room()

    def drop(self, jobs: set[EngineJob[Any]]) -> None:
        """Frees the slots of these."""
        for slot in self._slots:
            if slot is not None:
                slot.done = slot.done or slot.job in jobs
        self._make_room()

    def preempt(self) -> list[RequestJob]:
        """Frees all slots; what is not done is pending again, from its beginning."""
        self._read_tokens()
        undone = [slot for slot in self._slots if slot is not None and not slot.done]
        for slot in undone:
            slot.job.work.pending.append(slot.candidate)
            slot.done = True
        self._make_room()
        return list(dict.fromkeys(slot.job for slot in undone))

    def _upload(self, numbers: list[int]) -> Tensor:
        return upload(torch.tensor(numbers), self._network.device)

    def _new_slot(self, job: RequestJob, candidate: int, length: int) -> _Slot:
        request = job.work.request
        generator = torch.Generator().manual_seed(job.work.seeds[candidate]) if request.temperature > 0 else None
        return _Slot(job, candidate, Transcript(self._pieces, request), length, generator)

    def _choose_tokens(self, logits: Tensor, slots: list[_Slot | None], places: Tensor | None = None) -> None:
        """Chooses the next token of these slots; a row of logits for each, gaps too.

        Args:
            places: of the slots; None: they are the first.
        """
        if any(slot is not None and _changes_logits(slot.job.work) for slot in slots):
            self._read_tokens()
            logits = logits.float()
            self._apply_penalties(logits, slots)
        tokens, logprobs = greedy(logits)
        sampling = {row: slot for row, slot in enumerate(slots) if slot is not None and slot.generator is not None}
        if sampling:
            rows = self._upload(list(sampling))
            tokens[rows], logprobs[rows] = sampled(logits[rows], *_sampling(list(sampling.values()), rows.device))
        if places is None:
            self._next[: len(slots)] = tokens
        else:
            self._next[places] = tokens
        ready = None
        if tokens.is_cuda:
            tokens, logprobs = (part.to("cpu", non_blocking=True) for part in (tokens, logprobs))
            ready = torch.cuda.Event()
            ready.record()
        self._unread.append(_NextTokens(slots, tokens, logprobs, ready))

    def _apply_penalties(self, logits: Tensor, slots: list[_Slot | None]) -> None:
        """Penalties and bans, in place, for the rows of (batch, vocabulary) that ask for them."""
        for row, slot in enumerate(slots):
            if slot is None:
                continue
            work, ids = slot.job.work, slot.transcript.ids
            request = work.request
            if request.repetition_penalty != 1.0 and ids:
                seen = torch.tensor(sorted(set(ids)), device=logits.device)
                values = logits[row, seen]
                logits[row, seen] = torch.where(
                    values < 0, values * request.repetition_penalty, values / request.repetition_penalty
                )
            if len(ids) < request.min_tokens:
                logits[row, self._network.eos_id] = -torch.inf
            if work.banned:
                logits[row, banned_tokens(work.banned, ids)] = -torch.inf

    def _read_tokens(self, keep: int = 0) -> None:
        """Adds chosen tokens to their texts, all but the newest `keep`, and marks the slots that are done."""
        while len(self._unread) > keep:
            chosen = self._unread.popleft()
            if chosen.ready is not None:
                chosen.ready.synchronize()
            with self.metrics.part(HOST):
                rows = zip(chosen.slots, chosen.tokens.tolist(), chosen.logprobs.tolist(), strict=True)
                for slot, token, logprob in rows:
                    if slot is not None and not slot.done:
                        self._append(slot, token, logprob)

    def _append(self, slot: _Slot, token: int, logprob: float) -> None:
        self.metrics.num_decoded += 1
        completion = slot.transcript.add(token, logprob, self._network.eos_id)
        if completion is not None:
            slot.done = True
            if slot.job.work.finish(slot.candidate, completion):
                slot.job.answer(slot.job.work.completions)

    def _make_room(self) -> None:
        """Frees the slots that are done. Gaps wait for the next prompts, unless they become many."""
        done = [place for place, slot in enumerate(self._slots) if slot is not None and slot.done]
        if done:
            self._cache.free(self._upload(done))
            for place in done:
                self._slots[place] = None
            while self._slots and self._slots[-1] is None:
                self._slots.pop()
        self._patience = self._patience + 1 if len(self) < _FULL_ENOUGH * len(self._slots) else 0
        if self._patience > (_PATIENCE if self._async_scheduling else 0):
            self._close_gaps()
            self._patience = 0
        if not self._slots:
            self._read_tokens()

    def _close_gaps(self) -> None:
        """The last occupied slots move into the gaps."""
        kept = len(self)
        gaps = [place for place in range(kept) if self._slots[place] is None]
        movers = [(place, slot) for place, slot in enumerate(self._slots[kept:], kept) if slot is not None]
        if gaps:
            for gap, (place, slot) in zip(gaps, movers, strict=True):
                self._cache.copy(place, gap, slot.length)
            sources, targets = self._upload([place for place, _ in movers]), self._upload(gaps)
            self._cache.occupy(targets, self._cache.positions[sources])
            self._cache.free(sources)
            self._next[targets] = self._next[sources]
            for gap, (_, slot) in zip(gaps, movers, strict=True):
                self._slots[gap] = slot
        del self._slots[kept:]


def _changes_logits(work: TokenizedRequest) -> bool:
    return work.penalizes or work.request.min_tokens > 0


def _allocate(network: Network, num_slots: int, length: int) -> SlotCache:
    """With fewer slots where there is no memory for so many."""
    while True:
        try:
            return SlotCache(network, num_slots, length)
        except Exception as error:
            if not is_out_of_memory(error) or num_slots == 1:
                raise
            num_slots //= 2


def _sampling(slots: list[_Slot], device: torch.device) -> list[Tensor]:
    """Temperature, top_p and a random number for each."""
    values = []
    for slot in slots:
        point = float(torch.rand((), generator=slot.generator, dtype=torch.double))
        request = slot.job.work.request
        values.append((request.temperature, request.top_p, point))
    return list(upload(torch.tensor(values, dtype=torch.double), device).T)
