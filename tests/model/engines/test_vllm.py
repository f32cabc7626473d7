"""The engine whose language model is in vLLM. All but the first two tests need that environment (`make vllm`)."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exactness import compare, load

from vigc.model.benchmarks.embedded import generate, held_out_scenes
from vigc.model.completion import Completion, Request
from vigc.model.conversation.policy import make_policy
from vigc.model.engines.continuous.engine import ContinuousEngine
from vigc.model.engines.interface import BLANK, Engine, EngineLost
from vigc.model.engines.vllm.engine import VllmEngine
from vigc.model.engines.vllm.environment import VARIABLE, find_python
from vigc.model.network import Network
from vigc.model.prompts import load_pack
from vigc.model.scenes import render
from vigc.model.sentences import Unit
from vigc.platform.records import ConfigError, Kind, ModelError, Stop

EXPECTED = load(Path(__file__).with_name("reference_texts.json"))  # the kinds take turns
PACK = load_pack()
DETAIL = PACK.vig_prompt(Kind.DETAIL)
ASK = Request(qformer_text=DETAIL, prompt=DETAIL)


def answered(engine: Engine, work: Callable[[Any], Awaitable[Any]]) -> Any:
    picture = np.asarray(render(held_out_scenes(1, 31)[0], engine.image_size))

    async def main() -> Any:
        async with engine.image(picture) as image:
            return await asyncio.wait_for(work(image), timeout=120)

    return asyncio.run(main())


def test_without_an_environment_for_vllm_the_error_says_how_to_make_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "python"))
    with pytest.raises(ConfigError, match=r"make vllm.*--vllm-python or VIGC_VLLM_PYTHON"):
        find_python()
    assert find_python(sys.executable) == Path(sys.executable)


def test_an_environment_without_vllm_is_named(
    network: Network, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"there is no vLLM in its environment\. Run `make vllm`"):
        VllmEngine(network, python=sys.executable, num_slots=2)
    (folder,) = (tmp_path / "vigc" / "language-models").iterdir()
    assert {"config.json", "model.safetensors"} <= {file.name for file in folder.iterdir()}


@pytest.mark.slow
def test_its_texts_are_those_of_the_reference(vllm: VllmEngine) -> None:
    found = compare(vllm, EXPECTED[:36])
    for one in (*found.excused, *found.wrong):
        print(one)
    assert found.wrong == []
    assert len(found.excused) <= 1


@pytest.mark.slow
def test_short_answers_and_the_shipped_units_agree_too(vllm: VllmEngine, continuous: ContinuousEngine) -> None:
    """With a penalty for repetition, which sees new tokens only."""
    scenes, shipped = held_out_scenes(4, seed=18), make_policy("shipped", num_beams=1)

    def texts(engine: Engine) -> list[tuple[str, str]]:
        rows = asyncio.run(generate(engine, PACK, shipped, scenes, [Kind.KNOWLEDGE, Kind.DETAIL]))
        return [(c.vig_answer, c.answer) for row in rows for c in row]

    assert texts(vllm) == texts(continuous)


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked",
    [
        {"until": Unit.SENTENCE},
        {"until": Unit.SENTENCE, "min_tokens": 40},
        {"min_tokens": 150, "max_tokens": 170},
        {"stop_at": PACK.answer_tag},
        {"repetition_penalty": 1.7, "suppress": ("The", "picture", "see")},
    ],
    ids=["sentence", "later-sentence", "least-tokens", "mark", "penalty-and-bans"],
)
def test_completions_are_the_default_engines(
    vllm: VllmEngine, continuous: ContinuousEngine, asked: dict[str, Any]
) -> None:
    vic = PACK.vic_prompt(DETAIL, "What does the picture show?") if "until" in asked else DETAIL
    request = replace(ASK, qformer_text=vic, prompt=vic, **asked)
    got: Completion = answered(vllm, lambda image: vllm.complete(image, request))
    expected: Completion = answered(continuous, lambda image: continuous.complete(image, request))
    assert (got.text, got.stop, got.num_tokens) == (expected.text, expected.stop, expected.num_tokens)
    assert got.mean_logprob == pytest.approx(expected.mean_logprob, abs=1e-3)


@pytest.mark.slow
def test_scores_are_the_default_engines(vllm: VllmEngine, continuous: ContinuousEngine) -> None:
    text = answered(vllm, lambda image: vllm.complete(image, replace(ASK, max_tokens=30))).text
    scores = answered(vllm, lambda image: vllm.score(image, DETAIL, text))
    expected = answered(continuous, lambda image: continuous.score(image, DETAIL, text))
    assert [one.end for one in scores] == [one.end for one in expected]
    assert np.allclose([one.logprob for one in scores], [one.logprob for one in expected], atol=1e-3)
    blank = answered(vllm, lambda image: vllm.score(BLANK, DETAIL, text))
    assert sum(one.logprob for one in blank) < sum(one.logprob for one in scores)


@pytest.mark.slow
def test_sampling_depends_on_the_seed_and_not_on_the_company(vllm: VllmEngine) -> None:
    request = replace(ASK, temperature=1.0, top_p=0.95, seed=5)

    async def work(image: Any) -> tuple[Completion, list[Completion]]:
        return await vllm.complete(image, request), await vllm.candidates(image, replace(request, n=8))

    alone, eight = answered(vllm, work)
    assert eight[0].text == alone.text
    assert len({one.text for one in eight}) > 1


@pytest.mark.slow
def test_what_vllm_does_otherwise_is_refused(vllm: VllmEngine) -> None:
    for asked, word in (({"num_beams": 3}, "reference"), ({"temperature": 3.0}, "0.01 to 2.0")):
        with pytest.raises(ConfigError, match=word):
            answered(vllm, lambda image, asked=asked: vllm.complete(image, replace(ASK, **asked)))  # type: ignore[misc]
    with pytest.raises(ConfigError, match="positions"):
        answered(vllm, lambda image: vllm.complete(image, replace(ASK, prompt="word " * 600)))


@pytest.mark.slow
def test_a_request_that_nobody_waits_for_is_taken_back(vllm: VllmEngine) -> None:
    long = replace(ASK, min_tokens=400, max_tokens=400)

    async def work(image: Any) -> int:
        tasks = [asyncio.create_task(vllm.complete(image, long)) for _ in range(64)]
        before = vllm.metrics.num_decoded
        while vllm.metrics.num_decoded < before + 200:
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        cancelled_at = vllm.metrics.num_decoded
        assert (await vllm.complete(image, replace(ASK, max_tokens=5))).stop is Stop.LENGTH
        while vllm._under_way:  # the answer comes an instant before its end is noted
            await asyncio.sleep(0.01)
        return vllm.metrics.num_decoded - cancelled_at

    # 64 requests of 400 tokens would have been before it; a few steps of the 32 in slots may have been under way.
    assert answered(vllm, work) < 32 * 40


@pytest.mark.slow
def test_when_vllms_process_dies_whoever_waits_is_told_and_so_is_who_comes_later(
    network: Network, vllm_python: str
) -> None:
    engine = VllmEngine(network, python=vllm_python, num_slots=4)
    assert issubclass(EngineLost, ModelError)

    async def work(image: Any) -> list[BaseException | Completion]:
        long = replace(ASK, min_tokens=400, max_tokens=400)
        tasks = [asyncio.create_task(engine.complete(image, long)) for _ in range(8)]
        while not engine.metrics.num_decoded:
            await asyncio.sleep(0.01)
        os.kill(engine._vllm.pid, signal.SIGKILL)
        return await asyncio.gather(*tasks, return_exceptions=True)

    try:
        assert {type(one) for one in answered(engine, work)} == {EngineLost}
        with pytest.raises(EngineLost, match="ended by SIGKILL"):
            answered(engine, lambda image: engine.complete(image, ASK))
    finally:
        engine.close()
