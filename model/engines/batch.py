"""The conversations that are decoded at the same time: prompts come into free slots, each step adds a token to every
slot, and whoever is done makes room.

With `looks_late`, a step is launched before the tokens of the one before are looked at, so that a GPU never waits for
Python. A slot that turns out to be done has then decoded one token too many, which is dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vigc.model.completion import Completion, Request
from vigc.model.engines.base import Job
from vigc.model.engines.capacity import is_out_of_memory
from vigc.model.engines.choice import drawn, likeliest
from vigc.model.engines.decoder import Decoder
from vigc.model.engines.meter import DECODE, HOST, PREFILL, Meter
from vigc.model.engines.slots import SlotCache
from vigc.model.engines.text import Pieces, Transcript, banned_tokens
from vigc.model.network import Network


@dataclass(eq=False)
class Asked:
    """A request with what it still waits for."""

    job: Job
    request: Request
    prompt: list[int]
    banned: list[list[int]]
    seeds: list[int]  # of each candidate
    waiting: deque[int]  # candidates that have no slot yet
    completions: list[Completion | None]
    is_plain: bool  # whether its logits can be taken as they are
    num_emitted: int = 0  # characters that the caller has got; a candidate that begins anew does not say them twice


@dataclass(eq=False)
class _Slot:
    asked: Asked
    candidate: int
    transcript: Transcript
    length: int  # positions in the cache
    generator: torch.Generator | None  # None: greedy
    done: bool = False


@dataclass
class _Chosen:
    """Tokens that have been chosen for these slots and not been looked at."""

    slots: list[_Slot]
    tokens: Tensor
    logprobs: Tensor
    ready: torch.cuda.Event | None = None


class Batch:
    """See the module. `num_slots` may come out smaller, where there is no memory for so many."""

    def __init__(self, network: Network, num_slots: int, length: int, meter: Meter, *, looks_late: bool) -> None:
        self._network, self.meter, self._looks_late = network, meter, looks_late
        self._decoder = Decoder(network, length)
        self._cache = _allocate(network, num_slots, length)
        self.num_slots, self.length = len(self._cache.positions), length
        self._next = torch.zeros(self.num_slots, dtype=torch.long, device=network.device)  # what each slot reads next
        self._pieces = Pieces(network.tokenizer)
        self._slots: list[_Slot] = []
        self._chosen: deque[_Chosen] = deque()

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def jobs(self) -> list[Job]:
        return [slot.asked.job for slot in self._slots]

    def prefill(self, asked: Sequence[Asked], nums: Sequence[int], visual: Tensor) -> None:
        """Takes some of the candidates of each that have no slot; they share the reading of the prompt.

        Args:
            nums: how many of each.
            visual: (len(asked), num_queries, language_width).
        """
        network = self._network
        with self.meter.part(PREFILL):
            prompts = [one.prompt for one in asked]
            longest = max(map(len, prompts))
            ids = torch.tensor([p + [network.eos_id] * (longest - len(p)) for p in prompts]).to(network.device)
            lengths = [network.num_queries + len(p) for p in prompts]
            last = torch.tensor(lengths, device=network.device) - 1
            copies = [row for row, number in enumerate(nums) for _ in range(number)]
            rows = None if len(copies) == len(asked) else torch.tensor(copies, device=network.device)
            first = len(self._slots)
            embeds = torch.cat([visual, network.embed(ids)], dim=1)
            logits = self._decoder.prefill(embeds, last, self._cache, first, rows)
            self._cache.positions[first : first + len(copies)] = (last if rows is None else last[rows]) + 1
            added = [
                self._new_slot(one, one.waiting[nth], length)
                for one, number, length in zip(asked, nums, lengths, strict=True)
                for nth in range(number)
            ]
            self._choose(logits if rows is None else logits[rows], added, first)
            self._slots += added
            for slot in added:
                slot.asked.waiting.remove(slot.candidate)
            self.meter.num_prefilled += sum(lengths)
        if not self._looks_late:
            self._look()
            self._close_gaps()

    def step(self) -> None:
        """One token for every slot."""
        active = len(self._slots)
        with self.meter.part(DECODE):
            width = max(slot.length for slot in self._slots) + 1
            logits = self._decoder.step(self._next[:active], self._cache, width)
            for slot in self._slots:
                slot.length += 1
            self.meter.num_steps += 1
            self.meter.num_occupied += active
            self.meter.num_seen += sum(slot.length for slot in self._slots)
            self._choose(logits, self._slots, 0)
        self._look(keep=1 if self._looks_late else 0)
        self._close_gaps()

    def drop(self, jobs: set[Job]) -> None:
        """Frees the slots of these."""
        for slot in self._slots:
            slot.done = slot.done or slot.asked.job in jobs
        self._close_gaps()

    def evict(self) -> list[Asked]:
        """Frees all slots; what is not done waits to begin anew."""
        self._look()
        undone = [slot for slot in self._slots if not slot.done]
        for slot in undone:
            slot.done = True
            slot.asked.waiting.append(slot.candidate)
        self._slots.clear()
        return list(dict.fromkeys(slot.asked for slot in undone))

    def _new_slot(self, asked: Asked, candidate: int, length: int) -> _Slot:
        is_sampling = asked.request.temperature > 0
        generator = torch.Generator().manual_seed(asked.seeds[candidate]) if is_sampling else None
        return _Slot(asked, candidate, Transcript(self._pieces, asked.request), length, generator)

    def _choose(self, logits: Tensor, slots: list[_Slot], first: int) -> None:
        """Chooses the next token of these slots, which are the ones from `first` on."""
        if not all(slot.asked.is_plain for slot in slots):
            self._look()
            self._shape(logits, slots)
        tokens, logprobs = likeliest(logits)
        sampling = [row for row, slot in enumerate(slots) if slot.generator is not None]
        if sampling:
            rows = torch.tensor(sampling, device=logits.device)
            tokens[rows], logprobs[rows] = drawn(
                logits[rows], *_sampling([slots[row] for row in sampling], rows.device)
            )
        self._next[first : first + len(slots)] = tokens
        ready = None
        if tokens.is_cuda:
            tokens, logprobs = (part.to("cpu", non_blocking=True) for part in (tokens, logprobs))
            ready = torch.cuda.Event()
            ready.record()
        self._chosen.append(_Chosen(list(slots), tokens, logprobs, ready))

    def _shape(self, logits: Tensor, slots: list[_Slot]) -> None:
        """Penalties and bans, in place, for the rows that ask for them."""
        for row, slot in enumerate(slots):
            request, ids = slot.asked.request, slot.transcript.ids
            if request.repetition_penalty != 1.0 and ids:
                seen = torch.tensor(sorted(set(ids)), device=logits.device)
                values = logits[row, seen]
                logits[row, seen] = torch.where(
                    values < 0, values * request.repetition_penalty, values / request.repetition_penalty
                )
            if len(ids) < request.min_tokens:
                logits[row, self._network.eos_id] = -torch.inf
            if slot.asked.banned:
                logits[row, banned_tokens(slot.asked.banned, ids)] = -torch.inf

    def _look(self, keep: int = 0) -> None:
        """Adds chosen tokens to their texts, all but the newest `keep`, and marks the slots that are done."""
        while len(self._chosen) > keep:
            chosen = self._chosen.popleft()
            if chosen.ready is not None:
                chosen.ready.synchronize()
            with self.meter.part(HOST):
                rows = zip(chosen.slots, chosen.tokens.tolist(), chosen.logprobs.tolist(), strict=True)
                for slot, token, logprob in rows:
                    if not slot.done:
                        self._add(slot, token, logprob)

    def _add(self, slot: _Slot, token: int, logprob: float) -> None:
        self.meter.num_decoded += 1
        asked, transcript = slot.asked, slot.transcript
        completion = transcript.add(token, logprob, self._network.eos_id)
        if asked.job.on_text is not None:
            asked.job.emit(transcript.text[asked.num_emitted :])
            asked.num_emitted = max(asked.num_emitted, len(transcript.text))
        if completion is not None:
            slot.done = True
            asked.completions[slot.candidate] = completion
            if all(asked.completions):
                asked.job.answer(asked.completions)

    def _close_gaps(self) -> None:
        """Frees the slots that are done; the last occupied ones move into their places."""
        kept = sum(not slot.done for slot in self._slots)
        if kept == len(self._slots):
            return
        gaps = [i for i in range(kept) if self._slots[i].done]
        movers = [i for i in range(kept, len(self._slots)) if not self._slots[i].done]
        if gaps:
            self._cache.move(movers, gaps, max(self._slots[i].length for i in movers))
            self._next[gaps] = self._next[movers]
            for gap, mover in zip(gaps, movers, strict=True):
                self._slots[gap] = self._slots[mover]
        del self._slots[kept:]
        if not self._slots:
            self._look()


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
        values.append((slot.asked.request.temperature, slot.asked.request.top_p, point))
    return list(torch.tensor(values, dtype=torch.double, device=device).T)
