"""Models of other families than InstructBLIP, in a folder: a server of transformers' is started for each actor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_chat_models import write_tiny_idefics, write_tiny_qwen
from transformers import AutoModelForImageTextToText, AutoProcessor

from vigc.model.engines.endpoint.transformers_server import leave_videos_out
from vigc.model.llava.tiny import tiny_llava
from vigc.model.prompts import CHAT, load_pack
from vigc.model.scenes import Split, make_scene, render
from vigc.model.weights.model_folders import save_network
from vigc.platform.dataset.store import Store
from vigc.platform.records import Kind

NUM = 3
NUM_WORDS = 40  # of an answer, that are compared


def write_tiny_llava(folder: Path) -> Path:
    save_network(tiny_llava(load_pack(), seed=0), folder)
    return folder


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """JPEG, whose pixels are sent as they are; of several shapes."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(NUM):
        picture = render(make_scene(Split.HELD_OUT, 1, number), 160)
        picture.resize((160 + 32 * number, 160)).save(folder / f"{number}.jpg", quality=90)
    return folder


def said(folder: Path, photographs: Path) -> dict[str, str]:
    """What transformers says about each image in this process."""
    leave_videos_out()
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    prompt = load_pack(CHAT).vig_prompt(Kind.CONVERSATION)
    texts = {}
    for path in sorted(photographs.iterdir()):
        content = [{"type": "image", "image": Image.open(path)}, {"type": "text", "text": prompt}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=NUM_WORDS, do_sample=False)
        texts[path.name] = processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    return texts


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(write_tiny_idefics, id="Idefics3"),
        pytest.param(write_tiny_qwen, id="Qwen2.5-VL", marks=pytest.mark.slow),
        pytest.param(write_tiny_llava, id="LLaVA", marks=pytest.mark.slow),
    ],
)
def test_a_folder_of_another_family_makes_data_as_transformers_says_it(
    write: Callable[[Path], Path], vigc_joined, photographs, tmp_path
):
    folder, out = write(tmp_path / "model"), tmp_path / "data"
    made = vigc_joined(
        "generate", photographs, "--out", out, "--model", folder, "--kinds", "conversation", "--device", "cpu"
    )
    assert made.code == 0, made.err
    assert "transformers: vLLM is for GPUs" in made.out
    rows = {row["image_id"]: row for row in Store(out).rows()}
    expected = said(folder, photographs)
    assert len(set(expected.values())) == NUM
    for name, text in expected.items():
        (spoken,) = rows[name]["conversations"]
        assert spoken["vig_answer"].startswith(text), name
    assert vigc_joined("verify", out).code == 0
