"""The language model in vLLM, in a process and an environment of its own; the image model and the Q-Former here.

Prompts are handed over as embeddings, visual tokens first. vLLM decodes, in its own continuous batches; what it decodes
is read here token by token, and a request whose sentence has ended is taken back. So a unit ends by the same rule as in
every other engine, at the price of the tokens that are decoded meanwhile. Under greedy decoding in fp32 the texts are
those of `reference.py`; sampling follows vLLM's own generators.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vigc.model.completion import Request, ScoredToken
from vigc.model.engines.base import WAKE_UP, BatchingEngine, Encode, EngineJob, ImageHandle
from vigc.model.engines.continuous.capacity import MOST_CONTEXT, context_length, slot_bytes, slots_to_use
from vigc.model.engines.continuous.images import Images
from vigc.model.engines.detokenizer import Pieces, Transcript
from vigc.model.engines.interface import BLANK, EngineLost
from vigc.model.engines.metrics import EngineMetrics
from vigc.model.engines.scoring import ScoreRequest, TokenizedText, read
from vigc.model.engines.tokenized import TokenizedRequest, require_room, tokenize_request
from vigc.model.engines.vllm.connection import Connection
from vigc.model.engines.vllm.environment import find_python
from vigc.model.files.loading import DTYPES
from vigc.model.network import Network
from vigc.model.weights.model_folders import language_model_folder
from vigc.platform.records import ConfigError, ModelError

_BLOCK = 128  # positions that vLLM keeps together on a CPU; fewer on a GPU
_AT_ONCE = 64  # prompts, or images, that are computed together
_LEAST_TEMPERATURE, _MOST_TEMPERATURE = 0.01, 2.0  # beyond, vLLM changes or refuses it


@dataclass(frozen=True)
class _VllmMessage:
    """Work: a message from vLLM."""

    message: dict[str, Any]


@dataclass(eq=False)
class _Decoding:
    """One candidate of a request, under way in vLLM."""

    job: EngineJob[TokenizedRequest]
    candidate: int
    transcript: Transcript


@dataclass(eq=False)
class _Scoring:
    """A text that vLLM is made to decode, and how likely each token of it was."""

    job: EngineJob[TokenizedText]
    logprobs: list[float]


class VllmEngine(BatchingEngine):
    """See the module. On a GPU the layers of the network's language model move out of its memory.

    Args:
        python: of vLLM's environment; None: see `find_python`.
        num_slots: requests that vLLM decodes at once; None: as many as memory suggests.
        max_context: bounds visual tokens + prompt + answer, in tokens.
        memory_bytes: for slots and images; None: what is free.
    Raises:
        ConfigError: no such environment, no vLLM in it, or not even one slot fits into memory.
        ModelError: vLLM did not start.
    """

    def __init__(
        self,
        network: Network,
        *,
        python: str | Path | None = None,
        num_slots: int | None = None,
        num_threads: int | None = None,
        max_context: int = MOST_CONTEXT,
        memory_bytes: int | None = None,
    ) -> None:
        found = find_python(python)
        self._length = context_length(network, max_context)
        num_slots = slots_to_use(network, self._length, num_slots, memory_bytes)
        on_gpu = network.device.type == "cuda"
        self.metrics = EngineMetrics(network.device)
        folder = language_model_folder(network)
        self._images = Images(network, self.metrics, most_held=2 * num_slots)
        if on_gpu:
            network.language_model.model.layers.to("cpu")
            torch.cuda.empty_cache()
        self._pieces = Pieces(network.tokenizer)
        self._dtype = next(name for name, dtype in DTYPES.items() if dtype == network.dtype)
        self._numbers = itertools.count()
        self._waiting: deque[EngineJob[Any]] = deque()
        self._under_way: dict[int, _Decoding | _Scoring] = {}
        self._lost: str | None = None
        settings = {
            "model": str(folder),
            "dtype": self._dtype,
            "num_slots": num_slots,
            "length": self._length,
            # One more than there are slots: vLLM keeps a block for itself.
            "cache_bytes": (num_slots + 1) * slot_bytes(network, -(-self._length // _BLOCK) * _BLOCK),
            "max_batched": max(8192, self._length),
            "eager": not on_gpu,
        }
        self._vllm = Connection(found, settings, num_threads or torch.get_num_threads())
        super().__init__(network, num_slots=num_slots, num_threads=num_threads)
        self._vllm.listen(lambda message: self._inbox.put(EngineJob[Any](BLANK, _VllmMessage(message), None, None)))  # type: ignore[arg-type]

    def check(self, request: Request) -> None:
        super().check(request)
        if request.num_beams > 1:
            raise ConfigError(
                "The vllm engine decodes greedily or by sampling; beams are exact in --engine reference only."
            )
        if request.temperature and not _LEAST_TEMPERATURE <= request.temperature <= _MOST_TEMPERATURE:
            raise ConfigError(
                f"vLLM samples with temperatures from {_LEAST_TEMPERATURE} to {_MOST_TEMPERATURE}, not "
                f"{request.temperature}. Use --engine continuous, or 0 for greedy decoding."
            )

    def close(self) -> None:
        """Ends the thread and vLLM's process; what still waits fails."""
        super().close()
        self._vllm.close()

    def release(self, handle: ImageHandle) -> None:
        super().release(handle)
        self._images.release(handle)
        self._inbox.put(WAKE_UP)

    def _run(self) -> None:
        while self._read_inbox(block=not (self._waiting or self._images.room > 0)):
            if self._lost is not None:
                self._fail_all(EngineLost(f"vLLM is gone. {self._lost}"))
            if (room := min(_AT_ONCE, self._images.room)) > 0:
                jobs = self._images.take(room)
                self._attempt(jobs, partial(self._images.see, jobs))
            jobs = [self._waiting.popleft() for _ in range(min(_AT_ONCE, len(self._waiting)))]
            if jobs:
                self._attempt(jobs, partial(self._hand_over, jobs))
        self._fail_all(ModelError("The engine was closed."))

    def prepared(self, work: Request | ScoreRequest | Encode) -> TokenizedRequest | TokenizedText | Encode:
        if isinstance(work, ScoreRequest):
            return read(self.network, work)
        return tokenize_request(self.network, work, self._length) if isinstance(work, Request) else work

    def _enqueue(self, job: EngineJob[Any]) -> None:
        if isinstance(job.work, _VllmMessage):
            self._on_message(job.work.message)
        elif isinstance(job.work, Encode):
            self._images.waiting.append(job)
        else:
            self._waiting.append(job)

    def _drop(self, jobs: set[EngineJob[Any]]) -> None:
        self._take_back({number for number, one in self._under_way.items() if one.job in jobs})

    def _drop_cancelled(self) -> None:
        self._take_back({number for number, one in self._under_way.items() if one.job.cancelled.is_set()})
        self._waiting = deque(job for job in self._waiting if not job.cancelled.is_set())
        self._images.drop_cancelled()

    def _take_back(self, numbers: set[int]) -> None:
        for number in numbers:
            self._under_way.pop(number, None)
        if numbers:
            self._vllm.send({"drop": sorted(numbers)})

    def _fail_all(self, error: ModelError) -> None:
        for job in {*self._images.waiting, *self._waiting, *(one.job for one in self._under_way.values())}:
            job.fail(error)
        self._images.waiting.clear()
        self._waiting.clear()
        self._under_way.clear()

    # To vLLM.

    def _hand_over(self, jobs: list[EngineJob[Any]]) -> None:
        """Visual tokens of these, computed together, and their prompts, one by one."""
        remembered: list[tuple[EngineJob[Any], Tensor]] = []
        for job in jobs:  # its image may have been closed this very moment
            self._attempt([job], lambda job=job: remembered.append((job, self._images.memory(job.image))))  # type: ignore[misc]
        if not remembered:
            return
        visual = self._images.visual(
            [memory for _, memory in remembered],
            [job.work.qformer_row for job, _ in remembered],
        )
        for (job, _), tokens in zip(remembered, visual, strict=True):
            send = self._send_text if isinstance(job.work, TokenizedText) else self._send_request
            self._attempt([job], partial(send, job, tokens))

    def _send_request(self, job: EngineJob[TokenizedRequest], visual: Tensor) -> None:
        work, request = job.work, job.work.request
        shaping = {"repetition_penalty": request.repetition_penalty, "banned": work.banned, "given": []}
        for candidate, seed in enumerate(work.seeds):
            sampling = {
                "temperature": request.temperature,
                "top_p": request.top_p,
                "seed": seed,
                "max_tokens": request.max_tokens,
                "min_tokens": min(request.min_tokens, request.max_tokens),
                "stop_token_ids": [self.network.eos_id],
            }
            one = _Decoding(job, candidate, Transcript(self._pieces, request))
            self._send(one, visual, work.prompt, sampling, shaping if work.penalizes else {})

    def _send_text(self, job: EngineJob[TokenizedText], visual: Tensor) -> None:
        """vLLM scores no prompt that is embeddings, so the text is given to it token by token as if it was decoded."""
        prompt, given = job.work.ids[: job.work.start], job.work.ids[job.work.start :]
        if not given:
            job.answer([])
            return
        require_room(self.network, prompt, len(given), self._length)
        sampling = {"temperature": 0.0, "max_tokens": len(given), "ignore_eos": True}
        shaping = {"repetition_penalty": 1.0, "banned": [], "given": given}
        self._send(_Scoring(job, []), visual, prompt, sampling, shaping)

    def _send(
        self,
        one: _Decoding | _Scoring,
        visual: Tensor,
        prompt: list[int],
        sampling: dict[str, Any],
        shaping: dict[str, Any],
    ) -> None:
        network, number = self.network, next(self._numbers)
        embeds = torch.cat([visual, network.embed(torch.tensor(prompt, device=network.device))]).cpu().contiguous()
        self._under_way[number] = one
        message = {
            "add": number,
            "shape": list(embeds.shape),
            "dtype": self._dtype,
            "sampling": sampling,
            "shaping": shaping,
            # Oldest image first: images finish one after the other instead of all at the end.
            "priority": one.job.image.order,
        }
        self._vllm.send(message, embeds.view(torch.uint8).numpy().tobytes())

    # From vLLM.

    def _on_message(self, message: dict[str, Any]) -> None:
        if "lost" in message:
            self._lost = str(message["lost"])
        elif "refused" in message:
            one = self._under_way.get(message["refused"])
            if one is not None:
                self._drop({one.job})
                one.job.fail(ModelError(f"vLLM refused the request: {message['why']}"))
        else:
            done = set()
            for number, tokens, logprobs, ended in message["tokens"]:
                self.metrics.num_decoded += len(tokens)
                one = self._under_way.get(number)
                if isinstance(one, _Scoring):
                    self._add_score(number, one, logprobs, ended=ended)
                elif one is not None and self._append(one, tokens, logprobs):
                    del self._under_way[number]
                    if not ended:
                        done.add(number)
                elif one is not None and ended:
                    del self._under_way[number]
                    one.job.fail(ModelError("vLLM ended an answer before its time."))
            self._take_back(done)

    def _append(self, one: _Decoding, tokens: list[int], logprobs: list[float]) -> bool:
        """Whether that was the last of it."""
        for token, logprob in zip(tokens, logprobs, strict=True):
            completion = one.transcript.add(token, logprob, self.network.eos_id)
            if completion is not None:
                if one.job.work.finish(one.candidate, completion):
                    one.job.answer(one.job.work.completions)
                return True
        return False

    def _add_score(self, number: int, scoring: _Scoring, logprobs: list[float], *, ended: bool) -> None:
        scoring.logprobs += logprobs
        if ended:
            del self._under_way[number]
            ends = scoring.job.work.ends
            scoring.job.answer([ScoredToken(end, x) for end, x in zip(ends, scoring.logprobs, strict=True)])
