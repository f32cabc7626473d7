"""Any image-text-to-text model of transformers (LLaVA-1.5 and its like) as an answerer.

What waits is answered in batches, by a thread of its own; prompts are made with the processor's chat template. Replies
are greedy. A batch is padded, on the left for answers and on the right for scores, and masked, so a reply does not
depend on its neighbours beyond what rounding does.
"""

from __future__ import annotations

import asyncio
import io
import queue
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from vigc.model.answering import fill
from vigc.model.cores import num_cores
from vigc.model.engines.settings import EngineSettings
from vigc.platform.records import AnswerStyle, ModelError

_TEMPLATES = {
    AnswerStyle.SHORT: "{question}\nAnswer with one word or a short phrase.",
    AnswerStyle.RANK: "{question}\nAnswer with one word or a short phrase.",
    AnswerStyle.YES_NO: "{question}\nAnswer yes or no.",
    AnswerStyle.LETTER: "{question}\nAnswer with the letter of the right option only.",
}
_SHORT_TOKENS, _FREE_TOKENS = 16, 512
_BARE = "USER: <image>\n{prompt} ASSISTANT:"  # where a processor has no chat template: what LLaVA-1.5 reads


@dataclass(eq=False)
class _Asked:
    image: Image.Image
    prompt: str
    continuation: str | None  # to be scored; None: to be made
    max_tokens: int
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]

    def settle(self, result: Any, error: BaseException | None = None) -> None:
        def call() -> None:
            if not self.future.done():
                self.future.set_exception(error) if error is not None else self.future.set_result(result)

        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(call)

    @property
    def key(self) -> tuple[bool, int]:
        return self.continuation is not None, self.max_tokens


class ImageTextAnswerer:
    """Close it when done."""

    can_rank = True

    def __init__(self, settings: EngineSettings, *, template: str | None = None, max_tokens: int | None = None) -> None:
        """Raises ModelError: no such model, or not one that reads images and writes text."""
        model = settings.model
        try:
            self._processor = AutoProcessor.from_pretrained(model, use_fast=True)
            loaded = AutoModelForImageTextToText.from_pretrained(model, dtype=getattr(torch, settings.dtype))
        except (OSError, ValueError, KeyError, ImportError) as error:
            line = next(iter(str(error).splitlines()), type(error).__name__)
            raise ModelError(f"{model}: not an image-text-to-text model that can be loaded ({line}).") from error
        self._model = loaded.to(settings.device).eval()  # type: ignore[arg-type]
        self._tokenizer = self._processor.tokenizer
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._device, self._batch_size = settings.device, settings.most_slots
        self._num_threads = settings.num_threads or num_cores()
        self._template, self._max_tokens = template, max_tokens
        self._inbox: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="ImageTextAnswerer", daemon=True)
        self._thread.start()

    @asynccontextmanager
    async def image(self, data: bytes) -> AsyncIterator[Image.Image]:
        """`data` is an image file."""
        with Image.open(io.BytesIO(data)) as opened:
            yield opened.convert("RGB")

    async def answer(self, image: Image.Image, question: str, style: str) -> tuple[str, str]:
        is_short = AnswerStyle(style) in _TEMPLATES
        prompt = self._prompt(question, AnswerStyle(style))
        limit = self._max_tokens or (_SHORT_TOKENS if is_short else _FREE_TOKENS)
        return str(await self._ask(image, prompt, None, limit)).strip(), prompt

    async def rank(self, image: Image.Image, question: str, candidates: list[str]) -> tuple[list[float], str]:
        prompt = self._prompt(question, AnswerStyle.RANK)
        end = str(self._tokenizer.eos_token)
        scores = await asyncio.gather(*(self._ask(image, prompt, f" {one}{end}", 0) for one in candidates))
        return [float(one) for one in scores], prompt

    def close(self) -> None:
        self._inbox.put(None)
        self._thread.join(timeout=60)

    def _prompt(self, question: str, style: AnswerStyle) -> str:
        asked = fill(self._template, question, _TEMPLATES.get(style, "{question}"))
        if not getattr(self._processor, "chat_template", None):
            return _BARE.replace("{prompt}", asked)
        content = [{"type": "image"}, {"type": "text", "text": asked}]
        return str(
            self._processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        )

    async def _ask(self, image: Image.Image, prompt: str, continuation: str | None, max_tokens: int) -> Any:
        loop = asyncio.get_running_loop()
        asked = _Asked(image, prompt, continuation, max_tokens, loop, loop.create_future())
        self._inbox.put(asked)
        return await asked.future

    def _run(self) -> None:
        torch.set_num_threads(self._num_threads)
        waiting: list[_Asked] = []
        while True:
            if (first := self._inbox.get() if not waiting else None) is None and not waiting:
                return
            waiting += [first] if first is not None else []
            while not self._inbox.empty():
                if (more := self._inbox.get()) is None:
                    return
                waiting.append(more)
            batch = [one for one in waiting if one.key == waiting[0].key][: self._batch_size]
            waiting = [one for one in waiting if one not in batch]
            try:
                with torch.inference_mode():
                    results: Sequence[Any] = self._scored(batch) if batch[0].continuation else self._made(batch)
            except Exception as error:  # noqa: BLE001  the askers' to deal with
                for one in batch:
                    one.settle(None, error)
                continue
            for one, result in zip(batch, results, strict=True):
                one.settle(result)

    def _inputs(self, batch: list[_Asked], texts: list[str], side: str) -> Any:
        self._tokenizer.padding_side = side
        inputs = self._processor(
            text=texts, images=[one.image for one in batch], padding=True, return_tensors="pt", padding_side=side
        )
        return inputs.to(self._device, dtype=self._model.dtype)

    def _made(self, batch: list[_Asked]) -> list[str]:
        inputs = self._inputs(batch, [one.prompt for one in batch], "left")
        ids = self._model.generate(
            **inputs,
            max_new_tokens=batch[0].max_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        made: list[str] = self._tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return made

    def _scored(self, batch: list[_Asked]) -> list[float]:
        """Prompt and continuation are tokenised as one; what the prompt alone does not share is the continuation."""
        before = self._inputs(batch, [one.prompt for one in batch], "right")
        whole = self._inputs(batch, [f"{one.prompt}{one.continuation}" for one in batch], "right")
        logits = self._model(**whole).logits
        return [
            _sum_of_logprobs(row, ids[: int(mask.sum())], old[: int(old_mask.sum())])
            for row, ids, mask, old, old_mask in zip(
                logits,
                whole["input_ids"],
                whole["attention_mask"],
                before["input_ids"],
                before["attention_mask"],
                strict=True,
            )
        ]


def _sum_of_logprobs(logits: Tensor, ids: Tensor, prompt_ids: Tensor) -> float:
    """
    Args:
        logits: (length, vocabulary).
        ids: (tokens,) of prompt and continuation.
        prompt_ids: of the prompt alone.
    """
    least = min(len(ids), len(prompt_ids))
    differing = (ids[:least] != prompt_ids[:least]).nonzero()
    start = int(differing[0]) if len(differing) else least
    logprobs = logits[start - 1 : len(ids) - 1].float().log_softmax(dim=-1)
    return float(logprobs.gather(1, ids[start:, None]).sum())
