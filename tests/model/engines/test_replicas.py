"""Several engines as one: the same texts, each image with one of them, figures of all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exactness import compare, load

from vigc.model.benchmarks.embedded import held_out_scenes
from vigc.model.completion import Request
from vigc.model.engines.continuous import replicas
from vigc.model.engines.continuous.capacity import image_bytes, slot_bytes
from vigc.model.engines.continuous.engine import ContinuousEngine
from vigc.model.engines.continuous.replicas import ReplicatedEngine, continuous_engine
from vigc.model.engines.interface import BLANK
from vigc.model.network import Network
from vigc.model.prompts import load_pack
from vigc.model.scenes import render
from vigc.platform.records import ConfigError, Kind, ModelError

EXPECTED = load(Path(__file__).with_name("reference_texts.json"))
DETAIL = load_pack().vig_prompt(Kind.DETAIL)
ASK = Request(qformer_text=DETAIL, prompt=DETAIL, max_tokens=20)


@pytest.fixture(scope="module")
def engine(network: Network) -> Iterator[ReplicatedEngine]:
    made = continuous_engine(network, num_slots=7, num_threads=3)
    assert isinstance(made, ReplicatedEngine)
    yield made
    made.close()


def pixels(engine: ReplicatedEngine, index: int) -> np.ndarray:
    return np.asarray(render(held_out_scenes(index + 1, 31)[index], engine.image_size))


def test_slots_and_threads_are_shared_out(engine: ReplicatedEngine) -> None:
    assert [one.num_slots for one in engine.engines] == [3, 2, 2]
    assert [one._num_threads for one in engine.engines] == [1, 1, 1]
    assert engine.num_slots == 7
    assert len({id(one.network) for one in engine.engines}) == 1


def test_texts_are_those_of_the_reference_and_the_figures_are_those_of_all(engine: ReplicatedEngine) -> None:
    engine.reset_metrics()
    assert engine.occupancy == 0.0
    found = compare(engine, EXPECTED[:24])
    assert (found.num_equal, found.wrong) == (24 - len(found.excused), [])
    of_each = [one.metrics.num_decoded for one in engine.engines]
    assert min(of_each) > 0  # a third of the images each, though not of the words: the kinds take turns
    assert engine.metrics.num_decoded == sum(of_each)
    assert 0.5 < engine.occupancy <= 1
    assert engine.metrics.seconds["decode"] == pytest.approx(
        sum(one.metrics.seconds["decode"] for one in engine.engines) / 3
    )


def test_images_go_where_the_fewest_are_and_leave_nothing_behind(engine: ReplicatedEngine) -> None:
    async def main() -> list[int]:
        async with engine.image(pixels(engine, 0)), engine.image(pixels(engine, 1)) as second:
            async with engine.image(pixels(engine, 2)), engine.image(pixels(engine, 3)):
                held = [len(one._images.held) for one in engine.engines]
            assert (await engine.complete(second, ASK)).num_tokens == 20
        return held

    assert sorted(asyncio.run(main())) == [1, 1, 2]
    assert [len(one._images.held) for one in engine.engines] == [0, 0, 0]
    assert engine._replica_of == {}


def test_few_images_do_not_spread(network: Network) -> None:
    engine = continuous_engine(network, num_slots=24, num_threads=3)
    assert isinstance(engine, ReplicatedEngine)

    async def main() -> list[list[int]]:
        held = []
        async with AsyncExitStack() as images:
            for number in range(1, 10):
                await images.enter_async_context(engine.image(pixels(engine, 0)))
                if number in (2, 5, 9):
                    held.append([len(one._images.held) for one in engine.engines])
        return held

    try:
        assert asyncio.run(main()) == [[2, 0, 0], [2, 2, 1], [3, 3, 3]]
    finally:
        engine.close()


def test_a_closed_image_and_no_image_are_answered_for_too(engine: ReplicatedEngine) -> None:
    async def main() -> list[Any]:
        async with engine.image(pixels(engine, 0)) as closed:
            pass
        return await asyncio.gather(
            engine.complete(closed, ASK), engine.complete(BLANK, ASK), engine.score(BLANK, DETAIL, " A cup."),
            return_exceptions=True,
        )  # fmt: skip

    failed, said, scored = asyncio.run(main())
    assert isinstance(failed, ModelError)
    assert said.num_tokens == 20
    assert scored[-1].end == len(" A cup.")
    assert engine._replica_of == {}


def test_who_leaves_frees_its_slots_in_all(engine: ReplicatedEngine) -> None:
    async def main() -> None:
        async def hold(index: int) -> None:
            async with engine.image(pixels(engine, index)) as image:
                long = replace(ASK, min_tokens=300, max_tokens=300)
                await asyncio.gather(*(engine.complete(image, replace(long, seed=i)) for i in range(3)))

        tasks = [asyncio.create_task(hold(index)) for index in range(3)]
        while engine.num_in_use < 7:
            await asyncio.sleep(0.01)
        assert (engine.num_under_way, engine.num_waiting) == (9, 2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while engine.num_in_use:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(main(), 60))
    assert engine.num_under_way == 0


def test_beams_are_refused_and_a_closed_one_says_so(network: Network) -> None:
    engine = continuous_engine(network, num_threads=2)
    assert engine.is_alive
    with pytest.raises(ConfigError, match="reference"):
        engine.check(replace(ASK, num_beams=2))
    engine.close()
    assert not engine.is_alive
    with pytest.raises(ModelError, match="closed"):
        asyncio.run(engine.complete(BLANK, ASK))


def test_there_are_no_more_than_slots_and_memory_and_small_models_bear(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = slot_bytes(network, network.language_model.config.max_position_embeddings) + 2 * image_bytes(network)

    def made(**options: Any) -> tuple[int, int]:
        engine = continuous_engine(network, **options)
        engine.close()
        return len(engine.engines) if isinstance(engine, ReplicatedEngine) else 1, engine.num_slots

    assert made(num_threads=8) == (4, 128)
    assert made(num_threads=8, num_slots=2) == (2, 2)
    assert made(num_threads=8, num_slots=200) == (4, 200)  # as asked, though memory would not suggest it
    assert made(num_threads=8, memory_bytes=3 * each) == (3, 3)
    assert made(num_threads=1) == (1, 128)
    monkeypatch.setattr(replicas, "_SMALL", 0)
    assert made(num_threads=8) == (1, 128)
    assert isinstance(continuous_engine(network, num_slots=1), ContinuousEngine)
