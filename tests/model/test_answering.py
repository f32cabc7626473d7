"""Models as answerers: the embedded one and a tiny LLaVA, asked many things at once, say what each says alone."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_llava import write_tiny_llava

from vigc.model.answering.image_text import ImageTextAnswerer
from vigc.model.engines.settings import EngineSettings
from vigc.platform.records import ModelError

ENGINE = EngineSettings(engine="transformers", model="", device="cpu", dtype="float32", num_slots=4, num_threads=1)


def picture(colour, size=(40, 30)):
    file = io.BytesIO()
    noise = np.random.default_rng(colour).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_llava(tmp_path_factory.mktemp("llava") / "model")


@pytest.fixture(scope="module")
def llava(folder):
    answerer = ImageTextAnswerer(replace(ENGINE, model=str(folder)), max_tokens=6)
    yield answerer
    answerer.close()


ASKED = [(picture(n), f"What is it{'?' * n}", "short" if n % 2 else "detail") for n in range(6)]


def test_a_llava_asked_many_things_at_once_says_what_it_says_alone(llava):
    async def ask(data, question, style):
        async with llava.image(data) as image:
            return await llava.answer(image, question, style)

    async def all_at_once():
        return await asyncio.gather(*(ask(*one) for one in ASKED))

    together = asyncio.run(all_at_once())
    alone = [asyncio.run(ask(*one)) for one in ASKED]
    assert together == alone
    assert len({text for text, _ in together}) > 1
    assert together[1][1].startswith("USER: <image>")
    assert "short phrase" in together[1][1]
    assert "short phrase" not in together[0][1]


def test_ranks_are_sums_of_what_the_model_itself_gives(llava, folder):
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    candidates = ["a", "rather long", "zz"]

    async def rank():
        async with llava.image(picture(1)) as image:
            return await llava.rank(image, "Which?", candidates)

    found, prompt = asyncio.run(rank())
    model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    shown = Image.open(io.BytesIO(picture(1)))
    for text, logprob in zip(candidates, found, strict=True):
        start = processor(text=prompt, images=shown, return_tensors="pt")["input_ids"].shape[1]
        inputs = processor(text=f"{prompt} {text}</s>", images=shown, return_tensors="pt")
        assert inputs["input_ids"][0, -1] == 2
        with torch.no_grad():
            logprobs = model(**inputs).logits[0].log_softmax(-1)
        ids = inputs["input_ids"][0]
        expected = sum(float(logprobs[place - 1, ids[place]]) for place in range(start, len(ids)))
        assert len(ids) - start == len(text) + 2
        assert logprob == pytest.approx(expected, abs=1e-4)


def test_a_folder_that_holds_no_such_model_is_one_error(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(ModelError, match="not an image-text-to-text model"):
        ImageTextAnswerer(replace(ENGINE, model=str(tmp_path)))


def test_the_embedded_model_ranks_by_summed_log_probability():
    from vigc.model.answering.instructblip import InstructBlipAnswerer
    from vigc.model.conversation.policy import make_policy
    from vigc.model.embedded import PATH
    from vigc.model.engines.start import start_network_engine
    from vigc.model.prompts import load_pack

    engine = start_network_engine(EngineSettings(model=str(PATH), device="cpu", num_slots=4))
    answerer = InstructBlipAnswerer(engine, load_pack(), make_policy("lean"))
    try:

        async def ask():
            pixels = bytes(engine.image_size**2 * 3)
            async with answerer.image(pixels) as image:
                ranked = await answerer.rank(image, "What is it?", ["house", "tree"])
                prompt = ranked[1]
                tokens = await engine.score(image, prompt, " tree</s>")
                short = await answerer.answer(image, "What is it?", "short")
                free = await answerer.answer(image, "What is it?", "detail")
                return ranked, tokens, short, free

        (logprobs, prompt), tokens, short, free = asyncio.run(ask())
        assert prompt == "Question: What is it? Short answer:"
        assert logprobs[1] == pytest.approx(sum(token.logprob for token in tokens), abs=1e-4)
        assert logprobs[0] != logprobs[1]
        assert short[0]
        assert short[1] == prompt
        assert free[0]
        assert "Short answer" not in free[1]
    finally:
        answerer.close()
