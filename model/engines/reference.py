"""The paper's loop done plainly: the oracle that faster engines are tested against.

Every request runs the vision model again, decodes a whole answer with transformers' own `generate` (greedy, beams or
sampling), and leaves the cutting to the conversation. One request at a time, nothing shared, nothing clever.
"""

from __future__ import annotations

import torch

from vigc.model.completion import Completion, Request
from vigc.model.engines.base import NUDGE, Encode, Engine, Job, Score
from vigc.model.engines.text import banned_sequences
from vigc.model.network import Network
from vigc.platform.records import ModelError, Stop


class ReferenceEngine(Engine):
    """See the module."""

    def __init__(self, network: Network, *, num_slots: int = 1, num_threads: int | None = None) -> None:
        super().__init__(network, num_slots=num_slots, num_threads=num_threads)

    def _run(self) -> None:
        while (job := self._inbox.get()) is not None:
            if job is NUDGE or job.cancelled.is_set():
                continue
            try:
                job.answer(self._work(job))
            except Exception as error:  # noqa: BLE001 - told to the caller
                job.fail(ModelError(f"The engine failed: {type(error).__name__}: {error}"))
        while not self._inbox.empty():
            if (job := self._inbox.get()) is not None and job is not NUDGE:
                job.fail(ModelError("The engine was closed."))

    def _work(self, job: Job) -> Completion | list[float] | None:
        if isinstance(job.work, Encode):
            return None  # the picture is looked at anew for every request
        features = self._features(job.image)
        if isinstance(job.work, Score):
            return self._scored(features, job.work)
        completion = self._generate(job, features, job.work)
        job.emit(completion.text)
        return completion

    def _generate(self, job: Job, features: torch.Tensor, request: Request) -> Completion:
        network = self.network
        text_ids, text_mask = network.qformer_ids([request.qformer_text])
        visual = network.visual_tokens(features[None], text_ids, text_mask).to(network.dtype)
        prompt = torch.tensor([network.prompt_ids(request.prompt + request.prefix)], device=network.device)
        embeds = torch.cat([visual, network.embed(prompt)], dim=1)
        bad = banned_sequences(network.tokenizer, request.suppress)
        sampling = (
            {"do_sample": True, "temperature": request.temperature, "top_p": request.top_p, "top_k": 0}
            if request.temperature > 0
            else {"do_sample": False}
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(request.seed)
            out = network.language_model.generate(
                inputs_embeds=embeds,
                attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long, device=network.device),
                max_new_tokens=request.max_tokens,
                min_new_tokens=request.min_tokens or None,
                num_beams=request.num_beams,
                repetition_penalty=request.repetition_penalty,
                length_penalty=request.length_penalty,
                bad_words_ids=bad or None,
                bos_token_id=network.bos_id,
                eos_token_id=network.eos_id,
                pad_token_id=network.eos_id,
                return_dict_in_generate=True,
                output_scores=True,
                **sampling,
            )
        ids = out.sequences[0]  # embeddings only: nothing but new tokens
        indices = out.beam_indices[:1] if request.num_beams > 1 else None
        scores = network.language_model.compute_transition_scores(
            out.sequences[:1], out.scores, indices, normalize_logits=request.num_beams == 1
        )[0]
        ended = (ids == network.eos_id).nonzero()
        length = int(ended[0]) + 1 if len(ended) else len(ids)
        tail = prompt[0, -4:].tolist()
        new = ids[: length - 1 if len(ended) else length].tolist()
        decode = network.tokenizer.decode
        before = decode(tail, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        text = str(decode([*tail, *new], skip_special_tokens=True, clean_up_tokenization_spaces=False))[len(before) :]
        return Completion(
            text, Stop.END if len(ended) else Stop.LENGTH, length, float(scores[:length].mean()) if length else None
        )
