"""Continuous batching for conversations: the default engine.

A fixed number of decode slots share one key-value cache. Whoever waits is prefilled into a free slot, whatever its
image and step; a finished sentence frees its slot at once, so decoding never waits for the slowest row. Vision features
are computed once per image, in batches, and held while the image is open. Greedy decoding in fp32 gives the texts of
`reference.py`.
"""

from __future__ import annotations

import queue
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from vigc.model.completion import Request
from vigc.model.engines.base import BLANK, NUDGE, Blank, Encode, Engine, ImageHandle, Job, Score
from vigc.model.engines.text import Transcript, banned_sequences, banned_tokens
from vigc.model.network import Network
from vigc.platform.records import ConfigError, ModelError

_PATIENCE = 4  # decode steps that a waiting request may wait for company
_VISION_BATCH = 32


class SlotCache:
    """Keys and values of all slots, allocated once: per layer (num_slots, heads, length, head_dim). Speaks the `update`
    of transformers' caches.

    Occupied slots are the first ones, so that a decode step reads one slice without copying.
    """

    def __init__(self, network: Network, num_slots: int, length: int) -> None:
        config = network.language_model.config
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (num_slots, config.num_key_value_heads, length, head_dim)
        self.length = length
        self.keys = [
            torch.zeros(shape, dtype=network.dtype, device=network.device) for _ in range(config.num_hidden_layers)
        ]
        self.values = [torch.zeros_like(k) for k in self.keys]
        self.positions = torch.zeros(num_slots, dtype=torch.long, device=network.device)  # where each slot writes next
        self._active = self._width = 0

    def begin_step(self, active: int, width: int) -> None:
        """The next `update` calls append one token to each of the first `active` slots and return the first `width`
        positions.
        """
        self._active, self._width = active, width

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        rows, where = torch.arange(self._active, device=keys.device), self.positions[: self._active]
        self.keys[layer][rows, :, where] = keys[:, :, 0]
        self.values[layer][rows, :, where] = values[:, :, 0]
        return self.keys[layer][: self._active, :, : self._width], self.values[layer][: self._active, :, : self._width]

    def fill(self, slot: int, prefill: PrefillCache, row: int, length: int) -> None:
        """Copies one prefilled row into a slot."""
        for layer, (keys, values) in enumerate(prefill.layers):
            self.keys[layer][slot, :, :length] = keys[row, :, :length]
            self.values[layer][slot, :, :length] = values[row, :, :length]
        self.positions[slot] = length

    def move(self, source: int, target: int, length: int) -> None:
        for layer in [*self.keys, *self.values]:
            layer[target, :, :length] = layer[source, :, :length]
        self.positions[target] = self.positions[source]


class PrefillCache:
    """Catches the keys and values of one prefill batch."""

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        self.layers.append((keys, values))
        return keys, values


@dataclass
class _Slot:
    job: Job
    request: Request
    transcript: Transcript
    length: int  # positions in the cache
    banned: list[list[int]]
    generator: torch.Generator | None


class ContinuousEngine(Engine):
    """See the module. `max_context` bounds visual tokens + prompt + answer, in tokens."""

    def __init__(
        self, network: Network, *, num_slots: int = 64, num_threads: int | None = None, max_context: int = 768
    ) -> None:
        limit = int(network.language_model.config.max_position_embeddings)
        self._cache = SlotCache(network, num_slots, min(limit, max_context))
        self._slots: list[_Slot] = []
        self._next: Tensor = torch.zeros(0, dtype=torch.long)  # the token each slot feeds next
        self._encodes: deque[Job] = deque()
        self._waiting: list[Job] = []
        self._scores: deque[Job] = deque()
        self._held: set[ImageHandle] = set()
        self._blank: Tensor | None = None
        self._patience = 0
        self._num_steps = self._num_occupied = 0  # decode steps, and the occupied slots in all of them
        super().__init__(network, num_slots=num_slots, num_threads=num_threads)

    @property
    def occupancy(self) -> float:
        """Mean share of slots that were occupied in a decode step, since the start; 0 before the first."""
        return self._num_occupied / (self._num_steps * self.num_slots) if self._num_steps else 0.0

    def check(self, request: Request) -> None:
        super().check(request)
        if request.num_beams > 1:
            raise ConfigError(
                "The continuous engine decodes greedily or by sampling; beams are exact in --engine reference only."
            )

    def _release(self, handle: ImageHandle) -> None:
        super()._release(handle)
        self._held.discard(handle)
        self._inbox.put(NUDGE)

    def _run(self) -> None:
        while True:
            idle = not (self._slots or self._waiting or self._scores or self._can_encode())
            if not self._read_inbox(block=idle):
                break
            self._drop_cancelled()
            self._encode_some()
            while self._scores:
                self._attempt([job := self._scores.popleft()], lambda job=job: self._score(job))
            self._admit_some()
            if self._slots:
                self._attempt([s.job for s in self._slots], self._decode_step)
        for job in [*self._encodes, *self._waiting, *self._scores, *(s.job for s in self._slots)]:
            job.fail(ModelError("The engine was closed."))

    def _read_inbox(self, *, block: bool) -> bool:
        while True:
            try:
                job = self._inbox.get(block=block)
            except queue.Empty:
                return True
            if job is None:
                return False
            block = False
            if job is not NUDGE:
                where = (
                    self._encodes
                    if isinstance(job.work, Encode)
                    else self._scores
                    if isinstance(job.work, Score)
                    else self._waiting
                )
                where.append(job)

    def _attempt(self, jobs: list[Job], work: object) -> None:
        """Runs work for these jobs; if it fails they are told, and the engine goes on."""
        try:
            work()  # type: ignore[operator]
        except Exception as error:  # noqa: BLE001 - told to every caller concerned
            failed = set(map(id, jobs))
            self._keep([i for i, s in enumerate(self._slots) if id(s.job) not in failed])
            for job in jobs:
                job.fail(ModelError(f"The engine failed: {type(error).__name__}: {error}"))

    def _drop_cancelled(self) -> None:
        lines: list[list[Job] | deque[Job]] = [self._encodes, self._waiting, self._scores]
        for line in lines:
            alive = [job for job in line if not job.cancelled.is_set()]
            line.clear()
            line.extend(alive)
        self._keep([i for i, slot in enumerate(self._slots) if not slot.job.cancelled.is_set()])

    def _can_encode(self) -> bool:
        return bool(self._encodes) and len(self._held) < 2 * self.num_slots

    def _encode_some(self) -> None:
        room = min(_VISION_BATCH, 2 * self.num_slots - len(self._held), len(self._encodes))
        if room <= 0:
            return
        jobs = [self._encodes.popleft() for _ in range(room)]
        self._attempt(jobs, lambda: self._encode(jobs))

    def _encode(self, jobs: list[Job]) -> None:
        features = self.network.encode_images(torch.stack([self._pixels(job.image) for job in jobs]))
        for job, one in zip(jobs, features, strict=True):
            if isinstance(job.image, ImageHandle):
                job.image.features = one
                self._held.add(job.image)
            job.answer(None)

    def _score(self, job: Job) -> None:
        job.answer(self._scored(self._held_features(job.image), job.work))

    def _held_features(self, image: ImageHandle | Blank) -> Tensor:
        if isinstance(image, ImageHandle):
            if image.features is None:
                raise ModelError("The image was closed before its request was answered.")
            return image.features
        if self._blank is None:
            self._blank = self._features(BLANK)
        return self._blank

    def _admit_some(self) -> None:
        """Prefills waiting requests, together: alone they would cost a whole forward pass each."""
        free = self.num_slots - len(self._slots)
        if not self._waiting or not free:
            return
        self._patience += 1
        company = min(len(self._waiting), free)
        if self._slots and company < self.num_slots // 8 and self._patience < _PATIENCE:
            return
        self._patience = 0
        # Oldest image first: images finish one after the other instead of all at the end.
        self._waiting.sort(key=lambda job: job.image.order)
        jobs = self._waiting[:company]
        del self._waiting[:company]
        self._attempt(jobs, lambda: self._prefill(jobs))

    def _prefill(self, jobs: list[Job]) -> None:
        network = self.network
        prompts = []
        fitting = []
        for job in jobs:
            prompt = network.prompt_ids(job.work.prompt + job.work.prefix)
            needed = network.num_queries + len(prompt) + job.work.max_tokens
            if needed > self._cache.length:
                job.fail(
                    ConfigError(
                        f"A prompt of {len(prompt)} tokens with max_tokens {job.work.max_tokens} needs {needed} "
                        f"positions; the engine has {self._cache.length}."
                    )
                )
                continue
            prompts.append(prompt)
            fitting.append(job)
        if not fitting:
            return
        features = torch.stack([self._held_features(job.image) for job in fitting])
        text_ids, text_mask = network.qformer_ids([job.work.qformer_text for job in fitting])
        visual = network.visual_tokens(features, text_ids, text_mask).to(network.dtype)
        # Padded on the right, no row sees its padding: causal attention looks left only.
        longest = max(map(len, prompts))
        ids = torch.tensor([p + [network.eos_id] * (longest - len(p)) for p in prompts], device=network.device)
        embeds = torch.cat([visual, network.embed(ids)], dim=1)
        cache = PrefillCache()
        hidden = network.language_model.model(
            inputs_embeds=embeds,
            attention_mask=_causal_mask(embeds.shape[1], network),
            position_ids=torch.arange(embeds.shape[1], device=network.device)[None],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        lengths = [network.num_queries + len(p) for p in prompts]
        logits = network.language_model.lm_head(hidden[torch.arange(len(fitting)), torch.tensor(lengths) - 1]).float()
        first = len(self._slots)
        for row, (job, prompt, length) in enumerate(zip(fitting, prompts, lengths, strict=True)):
            self._cache.fill(first + row, cache, row, length)
            request: Request = job.work
            generator = torch.Generator().manual_seed(request.seed) if request.temperature > 0 else None
            banned = banned_sequences(network.tokenizer, request.suppress)
            self._slots.append(
                _Slot(job, request, Transcript(network.tokenizer, request, prompt), length, banned, generator)
            )
        self._next = torch.cat([self._next, torch.zeros(len(fitting), dtype=torch.long)])
        self._advance(logits, range(first, len(self._slots)))

    def _decode_step(self) -> None:
        """One token for every occupied slot."""
        network, active = self.network, len(self._slots)
        self._num_steps += 1
        self._num_occupied += active
        width = max(slot.length for slot in self._slots) + 1
        positions = self._cache.positions[:active]
        self._cache.begin_step(active, width)
        visible = torch.arange(width, device=network.device)[None] <= positions[:, None]
        mask = torch.zeros(visible.shape, dtype=network.dtype, device=network.device).masked_fill_(
            ~visible, torch.finfo(network.dtype).min
        )
        hidden = network.language_model.model(
            inputs_embeds=network.embed(self._next.to(network.device))[:, None],
            attention_mask=mask[:, None, None],
            position_ids=positions[:, None],
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        self._cache.positions[:active] += 1
        for slot in self._slots:
            slot.length += 1
        self._advance(network.language_model.lm_head(hidden[:, 0]).float(), range(active))

    def _advance(self, logits: Tensor, slots: range) -> None:
        """Chooses the next token of these slots, and lets go of those that are done."""
        logits = logits.cpu()
        self._shape(logits, slots)
        logprobs = logits.log_softmax(-1)
        tokens = logits.argmax(-1)
        for row, index in enumerate(slots):
            slot = self._slots[index]
            if slot.generator is not None:
                tokens[row], logprobs[row] = _sample(logits[row], slot.request, slot.generator)
        chosen = logprobs.gather(1, tokens[:, None])[:, 0].tolist()
        done = set()
        for row, (index, token) in enumerate(zip(slots, tokens.tolist(), strict=True)):
            slot = self._slots[index]
            before = len(slot.transcript.text)
            completion = slot.transcript.add(token, chosen[row], self.network.eos_id)
            slot.job.emit(slot.transcript.text[before:])
            if completion is not None:
                slot.job.answer(completion)
                done.add(index)
        self._next[slots.start : slots.stop] = tokens
        if done:
            self._keep([i for i in range(len(self._slots)) if i not in done])

    def _shape(self, logits: Tensor, slots: range) -> None:
        """Penalties and bans, in place, for the rows that ask for them."""
        for row, index in enumerate(slots):
            request, ids = self._slots[index].request, self._slots[index].transcript.ids
            if request.repetition_penalty != 1.0 and ids:
                seen = torch.tensor(sorted(set(ids)))
                values = logits[row, seen]
                logits[row, seen] = torch.where(
                    values < 0, values * request.repetition_penalty, values / request.repetition_penalty
                )
            if len(ids) < request.min_tokens:
                logits[row, self.network.eos_id] = -torch.inf
            if self._slots[index].banned:
                logits[row, banned_tokens(self._slots[index].banned, ids)] = -torch.inf

    def _keep(self, indices: list[int]) -> None:
        """Frees all other slots; the last occupied ones move into the gaps."""
        if len(indices) == len(self._slots):
            return
        kept = set(indices)
        gaps = [i for i in range(len(indices)) if i not in kept]
        movers = [i for i in indices if i >= len(indices)]
        for target, source in zip(gaps, movers, strict=True):
            self._cache.move(source, target, self._slots[source].length)
            self._slots[target] = self._slots[source]
            self._next[target] = self._next[source]
        del self._slots[len(indices) :]
        self._next = self._next[: len(indices)].clone()


def _causal_mask(length: int, network: Network) -> Tensor:
    lowest = torch.finfo(network.dtype).min
    return torch.full((length, length), lowest, dtype=network.dtype, device=network.device).triu_(1)[None, None]


def _sample(logits: Tensor, request: Request, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A token from the nucleus, by one random number of the request's own: its neighbours in the batch play no part."""
    logprobs = (logits / request.temperature).log_softmax(-1)
    ordered, order = logprobs.exp().double().sort(descending=True, stable=True)
    cumulative = ordered.cumsum(0)
    size = int((cumulative < request.top_p).sum()) + 1
    point = torch.rand((), generator=generator, dtype=torch.double) * cumulative[min(size, len(cumulative)) - 1]
    return order[min(int((cumulative <= point).sum()), size - 1)], logprobs
