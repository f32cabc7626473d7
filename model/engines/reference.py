"""The paper's loop done plainly: the oracle that faster engines are tested against, and measured against.

Every request runs the vision model again, decodes a whole answer with transformers' own `generate` (greedy, beams or
sampling), and leaves the cutting to the conversation. Nothing is shared, nothing clever. With a `batch_size`, so many
requests run in lockstep, as the authors' program does it (8 of them), and each waits for the longest.
"""

from __future__ import annotations

import queue
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vigc.model.completion import Completion, Request, ScoredToken, seeds_of
from vigc.model.engines.base import WAKE_UP, Encode, EngineJob, ImageHandle, ThreadedEngine, pixels_of
from vigc.model.engines.detokenizer import Pieces
from vigc.model.engines.interface import Blank
from vigc.model.engines.scoring import ScoreRequest, read, score
from vigc.model.engines.tokenized import banned_sequences
from vigc.model.network import Network
from vigc.platform.records import ConfigError, ModelError, Stop

_COMPANY_S = 0.05  # how long a batch that is not full waits for more


class ReferenceEngine(ThreadedEngine):
    """See the module.

    Args:
        batch_size: requests of one batch have to agree in everything but their texts, and be greedy or by beams.
    """

    def __init__(self, network: Network, *, batch_size: int = 1, num_threads: int | None = None) -> None:
        self.gaps: dict[tuple[int, Request], list[float]] | None = None  # see tests/helpers/exactness.py
        self.num_decoded = 0  # tokens of all beams, those behind an end mark included
        self._pieces = Pieces(network.tokenizer)
        super().__init__(network, num_slots=batch_size, num_threads=num_threads)

    def _run(self) -> None:
        while jobs := self._next_jobs():
            try:
                for job, result in zip(jobs, self._work(jobs), strict=True):
                    job.answer(result)
            except Exception as error:  # noqa: BLE001 - raised again in the callers
                for job in jobs:
                    job.fail(ModelError(f"The engine failed: {type(error).__name__}: {error}"))
        while not self._inbox.empty():
            if (last := self._inbox.get()) is not None and last is not WAKE_UP:
                last.fail(ModelError("The engine was closed."))

    def _next_jobs(self) -> list[EngineJob[Any]]:
        """One, or as many as make up a batch; none at the end."""
        jobs: list[EngineJob[Any]] = []
        while len(jobs) < self.num_slots:
            try:
                job = self._inbox.get(timeout=_COMPANY_S if jobs else None)
            except queue.Empty:
                break
            if job is None:
                self._inbox.put(None)  # for the next call
                break
            if job is WAKE_UP or job.cancelled.is_set():
                continue
            if isinstance(job.work, Encode):
                job.answer(None)  # the image is encoded anew for every request
                continue
            jobs.append(job)
            if isinstance(job.work, ScoreRequest):
                break
        return jobs

    def _work(self, jobs: list[EngineJob[Any]]) -> list[list[Completion]] | list[list[ScoredToken]]:
        if len(jobs) == 1:
            (job,) = jobs
            if isinstance(job.work, ScoreRequest):
                visual = self._visual([job.image], [job.work.qformer_text])
                return score(self.network, visual, [read(self.network, job.work)], [0])
            requests = [replace(job.work, n=1, seed=seed) for seed in seeds_of(job.work)]
            return [[self._generate([job], [request])[0] for request in requests]]
        return [[one] for one in self._generate(jobs, [job.work for job in jobs])]

    def _visual(self, images: list[ImageHandle | Blank], texts: list[str]) -> Tensor:
        network = self.network
        features = network.encode_images(torch.stack([pixels_of(network, image) for image in images]))
        return network.visual_tokens(features, *network.qformer_ids(texts)).to(network.dtype)

    def _generate(self, jobs: list[EngineJob[Any]], requests: list[Request]) -> list[Completion]:
        network, request = self.network, requests[0]
        if len(requests) > 1 and (request.temperature > 0 or len({_manner(one) for one in requests}) > 1):
            raise ConfigError("A batch of the reference engine decodes one way, without sampling.")
        visual = self._visual([job.image for job in jobs], [one.qformer_text for one in requests])
        prompts = [network.prompt_ids(one.prompt + one.prefix) for one in requests]
        embeds, mask = self._padded(visual, prompts)
        sampling = (
            {"do_sample": True, "temperature": request.temperature, "top_p": request.top_p, "top_k": 0}
            if request.temperature > 0
            else {"do_sample": False}
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(request.seed)
            out = network.language_model.generate(
                inputs_embeds=embeds,
                attention_mask=mask,
                max_new_tokens=request.max_tokens,
                min_new_tokens=request.min_tokens or None,
                num_beams=request.num_beams,
                repetition_penalty=request.repetition_penalty,
                length_penalty=request.length_penalty,
                bad_words_ids=banned_sequences(network.tokenizer, request.suppress) or None,
                bos_token_id=network.bos_id,
                eos_token_id=network.eos_id,
                pad_token_id=network.eos_id,
                return_dict_in_generate=True,
                output_scores=True,
                **sampling,
            )
        self.num_decoded += len(out.scores) * len(requests) * request.num_beams
        indices = out.beam_indices if request.num_beams > 1 else None
        scores = network.language_model.compute_transition_scores(
            out.sequences, out.scores, indices, normalize_logits=request.num_beams == 1
        )
        made = []
        for row, one in enumerate(requests):
            ids = out.sequences[row]  # embeddings only: nothing but new tokens
            ended = (ids == network.eos_id).nonzero()
            length = int(ended[0]) + 1 if len(ended) else len(ids)
            text = self._pieces.join(ids[: length - 1 if len(ended) else length].tolist())
            mean = float(scores[row, :length].mean()) if length else None
            made.append(Completion(text, Stop.END if len(ended) else Stop.LENGTH, length, mean))
            if self.gaps is not None:
                best = [step[row].topk(2).values for step in out.scores[:length]]
                self.gaps[jobs[row].image.order, one] = [float(first - second) for first, second in best]
        return made

    def _padded(self, visual: Tensor, prompts: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Embeddings of visual tokens and prompts, padded on the left, and their mask."""
        network, longest = self.network, max(map(len, prompts))
        rows = []
        for tokens, prompt in zip(visual, prompts, strict=True):
            pad, ids = [network.eos_id] * (longest - len(prompt)), torch.tensor
            before = network.embed(ids(pad, dtype=torch.long, device=network.device))
            rows.append(torch.cat([before, tokens, network.embed(ids(prompt, device=network.device))]))
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=network.device)
        places = torch.arange(visual.shape[1] + longest, device=network.device)
        return torch.stack(rows), (places >= (longest - lengths)[:, None]).long()


def _manner(request: Request) -> Request:
    return replace(request, qformer_text="", prompt="", prefix="", seed=0)
