"""What the continuous engine holds, and what it does when there is no more: less at once, and the same texts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from vigc.model.benchmarks.embedded import generate, held_out_scenes
from vigc.model.completion import CPU_SLOTS
from vigc.model.conversation.policy import make_policy
from vigc.model.embedded.shape import SHIPPED
from vigc.model.engines.continuous import batch as batches
from vigc.model.engines.continuous import engine as engines
from vigc.model.engines.continuous.capacity import image_bytes, slot_bytes
from vigc.model.engines.continuous.decoder import Decoder
from vigc.model.engines.continuous.engine import ContinuousEngine
from vigc.model.engines.continuous.images import Images
from vigc.model.engines.interface import BLANK
from vigc.model.network import Network
from vigc.model.prompts import load_pack
from vigc.platform.records import ConfigError, Kind, ModelError

PACK, PAPER = load_pack(), make_policy("paper")
SCENES = held_out_scenes(12, seed=41)
MIB = 2**20


def texts(engine: ContinuousEngine) -> list[tuple[str, str]]:
    try:
        rows = asyncio.run(generate(engine, PACK, PAPER, SCENES, [Kind.DETAIL, Kind.CONVERSATION]))
    finally:
        engine.close()
    return [(spoken.vig_answer, spoken.answer) for row in rows for spoken in row]


@pytest.fixture(scope="module")
def expected(network: Network) -> list[tuple[str, str]]:
    return texts(ContinuousEngine(network, num_slots=16))


@pytest.fixture
def allocator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Makes a function run out of memory for sizes beyond a limit, as a GPU's allocator would."""

    def limit(place: Any, name: str, size_of: Callable[..., int], most: int) -> None:
        whole = getattr(place, name)

        def limited(*args: Any, **kwargs: Any) -> Any:
            if size_of(*args) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return whole(*args, **kwargs)

        monkeypatch.setattr(place, name, limited)

    return limit


LIMITS: dict[str, Callable[[Callable[..., None]], None]] = {
    "images": lambda limit: limit(Images, "remembered", lambda held, images: len(images), 3),
    "prompts": lambda limit: limit(Decoder, "prefill", lambda decoder, x, prompts, cache: len(prompts.starts) - 1, 5),
    "steps": lambda limit: limit(Decoder, "step", lambda decoder, tokens, *rest: len(tokens), 6),
    "slots": lambda limit: limit(batches, "SlotCache", lambda network, num_slots, length: num_slots, 7),
    "choice": lambda limit: limit(batches, "greedy", len, 6),
}


@pytest.mark.parametrize("what", LIMITS)
@pytest.mark.parametrize("async_scheduling", [False, True])
def test_where_memory_runs_out_less_is_done_at_once_and_the_texts_stay(
    network: Network, expected: list[tuple[str, str]], allocator: Callable[..., None], what: str, async_scheduling: bool
) -> None:
    LIMITS[what](allocator)
    assert texts(ContinuousEngine(network, num_slots=16, async_scheduling=async_scheduling)) == expected


def test_where_memory_runs_out_fewer_texts_are_scored_at_once(network: Network, allocator: Callable[..., None]) -> None:
    engine = ContinuousEngine(network, num_slots=4)

    async def scores() -> list[Any]:
        texts = [f" There are {number} cups on the table." for number in range(8)]
        scored = asyncio.gather(*(engine.score(BLANK, "What is there?", text) for text in texts))
        return await asyncio.wait_for(scored, 120)

    try:
        expected = asyncio.run(scores())
        allocator(engines, "score", lambda network, visual, texts, rows: len(texts), 3)
        found = asyncio.run(scores())
    finally:
        engine.close()
    for one, other in zip(found, expected, strict=True):
        assert [token.logprob for token in one] == pytest.approx([token.logprob for token in other], abs=1e-4)


def test_what_does_not_fit_even_alone_fails_and_the_engine_goes_on(
    network: Network, allocator: Callable[..., None]
) -> None:
    engine = ContinuousEngine(network, num_slots=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Decoder, "prefill", _never)
        with pytest.raises(ModelError, match="out of memory"):
            asyncio.run(generate(engine, PACK, PAPER, SCENES[:1], [Kind.DETAIL]))
    assert texts(engine)


def _never(*args: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory.")


def test_slots_follow_from_the_memory_that_is_allowed(network: Network) -> None:
    length = network.language_model.config.max_position_embeddings
    each = slot_bytes(network, length) + 2 * image_bytes(network)
    for allowed, expected in ((each, 1), (5 * each + 1, 5), (10**12, CPU_SLOTS)):
        engine = ContinuousEngine(network, memory_bytes=allowed)
        engine.close()
        assert engine.num_slots == expected
    engine = ContinuousEngine(network, num_slots=3, memory_bytes=10**12)
    engine.close()
    assert engine.num_slots == 3
    with pytest.raises(ConfigError, match=rf"needs \d+ MiB for one slot of {length} positions .* --engine-memory"):
        ContinuousEngine(network, memory_bytes=MIB)


def test_the_size_that_is_reckoned_is_the_size_that_is_held(network: Network) -> None:
    engine = ContinuousEngine(network, num_slots=2)

    async def held() -> int:
        async with engine.image(np.zeros((SHIPPED.image_size, SHIPPED.image_size, 3), np.uint8)) as image:
            assert image.memory is not None
            return image.memory.untyped_storage().nbytes()

    assert asyncio.run(held()) == image_bytes(network)
    cache = engine._batch._cache
    engine.close()
    assert cache.keys.nbytes + cache.values.nbytes == 2 * slot_bytes(network, engine._batch.length)
