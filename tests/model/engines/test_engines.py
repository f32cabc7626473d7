"""What every engine promises, and that the fast one says what the plain one says."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from waiting import WAIT_S

from vigc.model.benchmarks.embedded import generate, held_out_scenes
from vigc.model.completion import Completion, Request
from vigc.model.conversation.policy import QformerReads, make_policy
from vigc.model.conversation.vigc import converse
from vigc.model.embedded.shape import SHIPPED
from vigc.model.engines.continuous.engine import ContinuousEngine
from vigc.model.engines.interface import BLANK, Engine
from vigc.model.engines.reference import ReferenceEngine
from vigc.model.engines.settings import EngineSettings
from vigc.model.engines.start import start_engine
from vigc.model.network import Network
from vigc.model.prompts import load_pack
from vigc.model.scenes import render
from vigc.model.sentences import Unit
from vigc.platform.records import ConfigError, Conversation, Kind, ModelError, Stop

PACK = load_pack()
PAPER = make_policy("paper")
DETAIL = PACK.vig_prompt(Kind.DETAIL)
ASK = Request(qformer_text=DETAIL, prompt=DETAIL)


def pixels(index: int, seed: int = 31) -> np.ndarray:
    return np.asarray(render(held_out_scenes(index + 1, seed)[index], SHIPPED.image_size))


def answered(engine: Engine, work: Callable[[Any], Awaitable[Any]], index: int = 0) -> Any:
    async def main() -> Any:
        async with engine.image(pixels(index)) as image:
            return await asyncio.wait_for(work(image), timeout=WAIT_S)

    return asyncio.run(main())


@pytest.fixture(params=["continuous", "reference", pytest.param("vllm", marks=pytest.mark.slow)])
def engine(request: pytest.FixtureRequest) -> Engine:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def test_the_knowledge_route_and_the_shipped_units_agree_too(
    continuous: ContinuousEngine, reference: ReferenceEngine
) -> None:
    scenes = held_out_scenes(6, seed=18)
    shipped = make_policy("shipped", num_beams=1)

    def texts(engine: Engine) -> list[tuple[str, str]]:
        rows = asyncio.run(generate(engine, PACK, shipped, scenes, [Kind.KNOWLEDGE, Kind.DETAIL]))
        return [(c.vig_answer, c.answer) for row in rows for c in row]

    assert texts(continuous) == texts(reference)


def test_beams_are_the_reference_engines_alone(continuous: ContinuousEngine, reference: ReferenceEngine) -> None:
    beams = replace(ASK, num_beams=3, max_tokens=40)
    assert answered(reference, lambda image: reference.complete(image, beams)).text
    with pytest.raises(ConfigError, match="reference"):
        answered(continuous, lambda image: continuous.complete(image, beams))


def test_slots_that_nobody_uses_count_as_empty(network: Network) -> None:
    engine = ContinuousEngine(network, num_slots=4)
    try:
        assert engine.occupancy == 0.0
        answered(engine, lambda image: engine.complete(image, replace(ASK, max_tokens=8)))
        assert engine.occupancy == 1 / 4
    finally:
        engine.close()


def test_a_sentence_is_cut_where_it_ends_and_costs_fewer_tokens(continuous: ContinuousEngine) -> None:
    whole = answered(continuous, lambda image: continuous.complete(image, ASK))
    vic = PACK.vic_prompt(DETAIL, "What does the picture show?")
    one = Request(qformer_text=vic, prompt=vic, until=Unit.SENTENCE)
    first = answered(continuous, lambda image: continuous.complete(image, one))
    rest = answered(continuous, lambda image: continuous.complete(image, replace(one, until=Unit.WHOLE)))
    assert (whole.stop, first.stop, rest.stop) == (Stop.END, Stop.SENTENCE, Stop.END)
    assert rest.text.startswith(first.text)
    assert first.num_tokens < rest.num_tokens


def test_decoding_ends_with_the_words_it_is_to_stop_at(continuous: ContinuousEngine) -> None:
    whole = answered(continuous, lambda image: continuous.complete(image, ASK))
    cut = answered(continuous, lambda image: continuous.complete(image, replace(ASK, stop_at=PACK.answer_tag)))
    assert (cut.stop, cut.text) == (Stop.MARK, whole.text[: whole.text.index("Answer:") + len("Answer:")])
    assert cut.num_tokens < whole.num_tokens


def test_candidates_share_a_prompt_and_differ_by_their_seeds(network: Network) -> None:
    engine = ContinuousEngine(network, num_slots=4)
    request = replace(ASK, temperature=1.0, seed=9, max_tokens=60)

    async def work(image: Any) -> tuple[list[Completion], Completion]:
        return await engine.candidates(image, replace(request, n=6)), await engine.complete(image, request)

    six, first = answered(engine, work)
    assert six[0].text == first.text
    assert len({one.text for one in six}) > 1
    # One reading of the prompt for the first four of six, one or two for the others, and one for the single request.
    prompt = network.num_queries + len(network.prompt_ids(ASK.prompt))
    assert engine.metrics.num_prefilled in (3 * prompt, 4 * prompt)
    engine.close()


def test_the_token_limit_stops_an_answer(engine: Engine) -> None:
    done: Completion = answered(engine, lambda image: engine.complete(image, replace(ASK, max_tokens=5)))
    assert (done.stop, done.num_tokens) == (Stop.LENGTH, 5)


def test_sampled_text_depends_on_the_seed_and_not_on_the_company(continuous: ContinuousEngine) -> None:
    request = replace(ASK, temperature=1.0, top_p=0.95, seed=5)
    alone = answered(continuous, lambda image: continuous.complete(image, request))

    async def in_company(image: Any) -> Completion:
        others = [continuous.complete(image, replace(request, seed=100 + i)) for i in range(20)]
        return (await asyncio.gather(continuous.complete(image, request), *others))[0]

    assert answered(continuous, in_company).text == alone.text
    texts = {c.text for c in answered(continuous, lambda image: continuous.candidates(image, replace(request, n=8)))}
    assert len(texts) > 1


def test_suppressed_words_are_not_said(engine: Engine) -> None:
    free = answered(engine, lambda image: engine.complete(image, ASK)).text
    word = max((w.strip(".?,:") for w in free.split()), key=len)
    without = answered(engine, lambda image: engine.complete(image, replace(ASK, suppress=(word,)))).text
    assert word in free
    assert word not in without


def test_scores_are_the_log_probabilities_of_decoding(continuous: ContinuousEngine, reference: ReferenceEngine) -> None:
    done = answered(continuous, lambda image: continuous.complete(image, replace(ASK, max_tokens=30)))
    scored = answered(continuous, lambda image: continuous.score(image, DETAIL, done.text))
    scores = [token.logprob for token in scored]
    assert math.isclose(sum(scores) / len(scores), done.mean_logprob, abs_tol=1e-3)
    other = answered(reference, lambda image: reference.score(image, DETAIL, done.text))
    assert [token.end for token in scored] == [token.end for token in other]
    assert np.allclose(scores, [token.logprob for token in other], atol=1e-4)
    blank = answered(continuous, lambda image: continuous.score(BLANK, DETAIL, done.text))
    assert sum(token.logprob for token in blank) < sum(scores)  # the text was said of the picture, not of nothing


def test_a_score_equals_a_forward_pass_of_the_model_itself(continuous: ContinuousEngine, network: Network) -> None:
    text = " There is a large red car at the top left."
    scored = answered(continuous, lambda image: continuous.score(image, DETAIL, text))
    before, whole = network.prompt_ids(DETAIL), network.prompt_ids(DETAIL + text)
    with torch.inference_mode():
        features = network.encode_images(torch.from_numpy(pixels(0).copy())[None])
        visual = network.visual_tokens(features, *network.qformer_ids([DETAIL]))
        embeds = torch.cat([visual, network.embed(torch.tensor([whole]))], dim=1)
        logprobs = network.language_model(inputs_embeds=embeds).logits[0].float().log_softmax(-1)
    told = [float(logprobs[network.num_queries + i - 1, whole[i]]) for i in range(len(before), len(whole))]
    assert np.allclose([token.logprob for token in scored], told, atol=1e-4)
    pieces = [text[start:end] for start, end in pairwise([0, *(token.end for token in scored)])]
    assert pieces[:5] == [" There", " is", " a", " large", " red"]
    assert "".join(pieces) == text


def test_scores_do_not_depend_on_the_company_and_are_read_together(network: Network) -> None:
    engine = ContinuousEngine(network, num_slots=8)
    texts = [" There is a cup." * number for number in (1, 1, 2, 3, 9)]

    async def work(image: Any) -> tuple[list[Any], list[Any]]:
        alone = [await engine.score(one, DETAIL, text) for one in (image, BLANK) for text in texts]
        engine.reset_metrics()
        decoding = [engine.complete(image, replace(ASK, seed=i)) for i in range(12)]
        scoring = [engine.score(one, DETAIL, text) for one in (image, BLANK) for text in texts]
        together = (await asyncio.gather(*decoding, *scoring))[len(decoding) :]
        return alone, together

    alone, together = answered(engine, work)
    for one, same in zip(alone, together, strict=True):
        assert [token.end for token in one] == [token.end for token in same]
        assert np.allclose([token.logprob for token in one], [token.logprob for token in same], atol=1e-4)
    assert engine.metrics.num_passes < len(together)
    engine.close()


def test_a_text_of_a_closed_image_fails_alone_and_nothing_is_no_text(continuous: ContinuousEngine) -> None:
    async def main() -> list[Any]:
        async with continuous.image(pixels(1)) as closed:
            pass
        async with continuous.image(pixels(0)) as image:
            return await asyncio.gather(
                continuous.score(closed, DETAIL, " A cup."),
                continuous.score(image, DETAIL, " A cup."),
                continuous.score(image, DETAIL, ""),
                return_exceptions=True,
            )

    failed, scored, nothing = asyncio.run(main())
    assert isinstance(failed, ModelError)
    assert [token.end for token in scored][-1] == len(" A cup.")
    assert nothing == []


def test_cancelling_frees_the_slots_and_the_image(network: Network) -> None:
    engine = ContinuousEngine(network, num_slots=2)

    async def main() -> str:
        async def hold() -> None:
            async with engine.image(pixels(0)) as image:
                await asyncio.gather(
                    *(engine.complete(image, replace(ASK, min_tokens=400, max_tokens=400)) for _ in range(4))
                )

        task = asyncio.create_task(hold())
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with engine.image(pixels(1)) as image:
            return (await asyncio.wait_for(engine.complete(image, replace(ASK, max_tokens=3)), timeout=WAIT_S)).text

    assert asyncio.run(main())
    engine.close()


def test_admission_is_bounded_by_twice_the_slots(network: Network) -> None:
    engine = ContinuousEngine(network, num_slots=1)

    async def main() -> tuple[int, bool]:
        async with engine.image(pixels(0)) as first, engine.image(pixels(1)):
            opening = engine.image(pixels(2))
            third = asyncio.create_task(opening.__aenter__())
            await asyncio.sleep(0.3)
            waiting = not third.done()
            await engine.complete(first, replace(ASK, max_tokens=3))
        await asyncio.wait_for(third, timeout=WAIT_S)
        held = len(engine._images.held)
        await opening.__aexit__(None, None, None)
        return held, waiting

    held, waited = asyncio.run(main())
    assert waited
    assert held == 1
    engine.close()


def test_a_request_that_does_not_fit_fails_alone(network: Network) -> None:
    engine = ContinuousEngine(network, num_slots=4, max_context=128)

    async def work(image: Any) -> list[Any]:
        long = replace(ASK, prompt="word " * 200)
        short = replace(ASK, max_tokens=8)
        return await asyncio.gather(engine.complete(image, long), engine.complete(image, short), return_exceptions=True)

    failed, done = answered(engine, work)
    assert isinstance(failed, ConfigError)
    assert "positions" in str(failed)
    assert done.num_tokens == 8
    engine.close()


def test_a_closed_engine_says_so(network: Network) -> None:
    engine = ContinuousEngine(network, num_slots=1)
    engine.close()
    with pytest.raises(ModelError, match="closed"):
        answered(engine, lambda image: engine.complete(image, ASK))


def test_images_of_another_size_are_refused(continuous: ContinuousEngine) -> None:
    async def wrong() -> None:
        async with continuous.image(np.zeros((64, 64, 3), dtype=np.uint8)):
            pass

    with pytest.raises(ValueError, match=f"{SHIPPED.image_size} x {SHIPPED.image_size}"):
        asyncio.run(wrong())


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ConfigError, match="continuous, reference, vllm"):
        start_engine(EngineSettings(engine="quick", model="none"))


@pytest.mark.slow
def test_the_model_looks(continuous: ContinuousEngine) -> None:
    """With the images of two scenes swapped, at least nine of ten of VIG's answers are different."""
    scenes = held_out_scenes(100, seed=23)
    kinds = [Kind.CONVERSATION, Kind.DETAIL, Kind.REASONING]
    for position, kind in enumerate(kinds):
        rows = asyncio.run(generate(continuous, PACK, PAPER, scenes, [kind]))
        answers = [row[0].vig_answer for row in rows]
        changed = sum(a != b for a, b in zip(answers[::2], answers[1::2], strict=True)) / 50
        assert changed >= 0.9, (position, kind, changed)


@pytest.mark.slow
def test_without_the_qformers_text_iterated_vic_is_one_shot_vic(continuous: ContinuousEngine) -> None:
    """All that distinguishes the two is what the Q-Former reads (arXiv 2308.12714 §3.2)."""
    scenes = held_out_scenes(40, seed=29)

    def run(reads: QformerReads) -> list[Conversation]:
        policy = make_policy("paper", qformer_reads=reads, one_shot=True)
        return [row[0] for row in asyncio.run(generate(continuous, PACK, policy, scenes, [Kind.DETAIL]))]

    blind = run(QformerReads.NOTHING)
    assert [c.answer for c in blind] == [c.one_shot_answer for c in blind]
    assert sum(len(c.steps) > 2 for c in blind) > 20
    seeing = run(QformerReads.PROMPT)
    assert [c.answer for c in seeing] != [c.answer for c in blind]


def test_the_engine_sets_its_own_thread_count(network: Network) -> None:
    before = torch.get_num_threads()
    engine = ContinuousEngine(network, num_slots=1, num_threads=1)
    answered(engine, lambda image: engine.complete(image, replace(ASK, max_tokens=2)))
    engine.close()
    torch.set_num_threads(before)
    assert engine._num_threads == 1


def test_conversations_from_several_event_loops_share_one_engine(continuous: ContinuousEngine) -> None:
    async def talk() -> str:
        async with continuous.image(pixels(3)) as image:
            made = await converse(lambda r: continuous.complete(image, r), PACK, Kind.DETAIL, PAPER)
        return made.answer

    assert asyncio.run(talk()) == asyncio.run(talk())
