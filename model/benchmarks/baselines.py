"""The same conversations by the paper's loop and by an engine, each timed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vigc.model.benchmarks.shapes import Script
from vigc.model.completion import Complete, Request
from vigc.model.conversation.policy import Policy
from vigc.model.conversation.vigc import converse
from vigc.model.engines.continuous.engine import ContinuousEngine
from vigc.model.engines.continuous.replicas import ReplicatedEngine
from vigc.model.engines.interface import Engine
from vigc.model.engines.reference import ReferenceEngine
from vigc.model.engines.vllm.engine import VllmEngine
from vigc.model.network import Network
from vigc.model.prompts import PromptPack
from vigc.platform.records import ConfigError, Conversation, Kind

BATCH, BEAMS = 8, 5  # the authors' (model/README.md, "Generation as released")

EXTENTS = {"loop": 1, "lean": 0, "full": 2}  # whole answers that an engine is asked for; see `scripted`

# One conversation, with whole answers or not: what was said, and how many tokens of it were kept.
HoldConversation = Callable[[Complete, bool], Awaitable[tuple[list[str], int]]]


@dataclass(frozen=True)
class Side:
    """What one way of doing it took."""

    num_images: int
    seconds: float
    num_decoded: int  # tokens, of all beams
    num_kept: int  # tokens of questions and answers
    texts: list[list[str]]

    @property
    def images_per_s(self) -> float:
        return self.num_images / self.seconds


def by_reference(
    network: Network, images: Sequence[np.ndarray], hold: HoldConversation, beams: int, threads: int | None
) -> Side:
    """As the authors' program: batches of 8 in lockstep, whole answers, the vision model in every step.

    Args:
        images: each (size, size, 3), uint8.
    """
    engine = ReferenceEngine(network, batch_size=BATCH, num_threads=threads)

    async def all_batches() -> list[tuple[list[str], int]]:
        made: list[tuple[list[str], int]] = []
        for start in range(0, len(images), BATCH):
            made += await _together(engine, images[start : start + BATCH], hold, beams)
        return made

    try:
        began = time.perf_counter()
        made = asyncio.run(all_batches())
        return _side(made, time.perf_counter() - began, engine.num_decoded)
    finally:
        engine.close()


def by_engine(
    engine: ContinuousEngine | ReplicatedEngine | VllmEngine, images: Sequence[np.ndarray], hold: HoldConversation
) -> Side:
    """All at once in one engine; images as above."""
    before, began = engine.metrics.num_decoded, time.perf_counter()
    made = asyncio.run(_together(engine, images, hold, 1))
    return _side(made, time.perf_counter() - began, engine.metrics.num_decoded - before)


async def _together(
    engine: Engine, images: Sequence[np.ndarray], hold: HoldConversation, beams: int
) -> list[tuple[list[str], int]]:
    async def one(pixels: np.ndarray) -> tuple[list[str], int]:
        async with engine.image(pixels) as image:
            return await hold(
                lambda request: engine.complete(image, replace(request, num_beams=beams)),
                isinstance(engine, ReferenceEngine),
            )

    return list(await asyncio.gather(*(one(pixels) for pixels in images)))


def _side(made: list[tuple[list[str], int]], seconds: float, num_decoded: int) -> Side:
    return Side(len(made), seconds, num_decoded, sum(kept for _, kept in made), [text for text, _ in made])


def spoken(network: Network, pack: PromptPack, policy: Policy, kind: Kind) -> HoldConversation:
    """A real conversation; one that VIG began with no question counts for nothing."""

    async def hold(complete: Complete, whole: bool) -> tuple[list[str], int]:
        said: Conversation = await converse(complete, pack, kind, policy)
        kept = [said.question, said.vig_answer, said.answer]
        return kept, len(network.prompt_ids(" ".join(kept)))

    return hold


def scripted(network: Network, script: Script, extent: str = "loop") -> HoldConversation:
    """Requests of fixed lengths. The paper's loop decodes all that is left of an answer, an engine one sentence and the
    token that shows its end.

    Args:
        extent: what an engine is asked for. "loop": VIG's answer and so many sentences as the loop; "lean": no answer
            of VIG's; "full": VIG's answer, VIC's first answer whole, and sentences up to the answer's end.
    Raises:
        ConfigError: another extent.
    """
    if extent not in EXTENTS:
        raise ConfigError(f"The extent {extent!r} is unknown; there are {', '.join(EXTENTS)}.")
    words = next(_words(network))

    async def hold(complete: Complete, whole: bool) -> tuple[list[str], int]:
        prompt, left = words * script.instruction, script.answer
        asked = script.question + (1 if extent == "lean" and not whole else left)
        first = await complete(Request(qformer_text=prompt, prompt=prompt, max_tokens=asked))
        prompt, said = prompt + words * script.question, [first.text]
        num = -(-script.answer // script.sentence) if extent == "full" and not whole else script.num_sentences
        for number in range(num):
            is_whole = whole or (number == 0 and extent == "full")
            tokens = left if is_whole else script.sentence + 1
            prefix = words * (script.sentence * number)
            done = await complete(
                Request(qformer_text=prompt + prefix, prompt=prompt, prefix=prefix, max_tokens=tokens)
            )
            said.append(done.text)
            left = max(script.sentence + 1, left - script.sentence)
        return said, script.question + script.sentence * num + script.answer * EXTENTS[extent]

    return hold


def _words(network: Network) -> Iterator[str]:
    """Words that are one token each, for both tokenizers, however often they are said."""
    for word in (" a", " the", " picture"):
        if len(network.prompt_ids(word * 20)) == 21 and len(network.qformer_row(word * 20)) in (20, 21, 22):
            yield word
