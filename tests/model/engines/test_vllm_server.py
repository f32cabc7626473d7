"""Models of other families in vLLM's server: they say what transformers says. Needs that environment (`make vllm`)."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_chat_models import write_tiny_qwen
from transformers import AutoModelForImageTextToText, AutoProcessor

from vigc.model.completion import Request
from vigc.model.engines.endpoint.engine import EndpointEngine
from vigc.model.engines.endpoint.transformers_server import leave_videos_out
from vigc.model.engines.settings import EndpointSettings, EngineSettings
from vigc.model.engines.start import start_engine
from vigc.model.llava.tiny import tiny_llava
from vigc.model.prompts import load_pack
from vigc.model.scenes import Split, make_scene, render
from vigc.model.weights.model_folders import save_network

pytestmark = pytest.mark.slow
NUM, NUM_TOKENS = 6, 40
ASK = "Ask for a full description and give it."


def write_tiny_llava(folder: Path) -> Path:
    save_network(tiny_llava(load_pack(), seed=0), folder)
    return folder


def photographs(side: int) -> list[bytes]:
    files = []
    for number in range(NUM):
        file = io.BytesIO()
        render(make_scene(Split.HELD_OUT, 3, number), side).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def said_by_transformers(folder: Path, images: list[bytes]) -> list[str]:
    leave_videos_out()
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    texts = []
    for data in images:
        content = [{"type": "image", "image": Image.open(io.BytesIO(data))}, {"type": "text", "text": ASK}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=NUM_TOKENS, do_sample=False)
        texts.append(processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return texts


@pytest.mark.parametrize(
    ("write", "side", "has_start_mark"),
    # Images that need no resizing, which torchvision, there, and Pillow, here, do not do alike to the bit.
    [pytest.param(write_tiny_llava, 160, True, id="LLaVA"), pytest.param(write_tiny_qwen, 112, False, id="Qwen2.5-VL")],
)
def test_its_texts_are_those_of_transformers(
    write: Callable[[Path], Path], side: int, has_start_mark: bool, vllm_python: str, tmp_path: Path
) -> None:
    folder, images = write(tmp_path / "model"), photographs(side)
    engine = start_engine(
        EngineSettings(
            engine="vllm",
            model=str(folder),
            device="cpu",
            dtype="float32",
            vllm_python=vllm_python,
            endpoint=EndpointSettings("", "small", patience_s=300),
        )
    )
    assert isinstance(engine, EndpointEngine)

    async def ask() -> list[str]:
        async def one(data: bytes) -> str:
            async with engine.image(data) as image:
                request = Request("", ASK, max_tokens=NUM_TOKENS)
                first = await engine.complete(image, request)
                again = await engine.complete(image, request)  # the image is only named
                assert again.text == first.text
                return first.text

        texts = await asyncio.gather(*map(one, images))
        found: Any = await engine.abilities()
        await engine.aclose()
        assert (found.logprobs, found.candidates, found.seed, found.is_deterministic) == (True, True, True, True)
        assert (found.remembers_images, found.adds_start_mark) == (True, has_start_mark)
        return texts

    texts = asyncio.run(ask())
    assert len(set(texts)) >= NUM - 1
    assert texts == said_by_transformers(folder, images)
