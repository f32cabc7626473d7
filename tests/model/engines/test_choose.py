"""What a model is, and what runs it, is found before anything starts."""

import json
import sys

import pytest
from tiny_llava import write_tiny_llava
from vision_server import VisionServer

from vigc.jobs.generate.config import GenerateConfig
from vigc.model.engines.choose import choose_model
from vigc.model.weights.identity import Family
from vigc.platform.records import ConfigError, ModelError, RunError


def chosen(*, on_gpu=False, **settings):
    return choose_model(GenerateConfig(images="photos", out="data", **settings), on_gpu=on_gpu)


def test_the_embedded_model_has_the_continuous_engine_and_its_own_prompts():
    found = chosen()
    assert (found.place.family, found.engine, found.endpoint) == (Family.INSTRUCTBLIP, "continuous", None)
    assert found.pack.name == "vigc-on-ray"
    assert found.image_form.side == 160


def test_an_address_is_an_endpoint_whose_model_is_found():
    with VisionServer() as server:
        found = chosen(model=f"{server.url}/", concurrency=7, patience=2)
    assert (found.place.name, found.engine) == ("tiny-vision", "endpoint")
    assert (found.endpoint.url, found.endpoint.concurrency, found.endpoint.patience_s) == (server.url, 7, 120)
    assert found.pack.name == "vigc-on-ray-chat"
    assert found.endpoint.phrases == found.pack.chat
    assert found.image_form.max_pixels


def test_an_endpoint_that_is_not_there_is_said_at_once():
    with VisionServer() as server:
        pass
    with pytest.raises(RunError, match="gave no answer"):
        chosen(model=server.url)


def test_a_folder_of_another_family_has_a_server(tmp_path, monkeypatch):
    monkeypatch.setenv("VIGC_VLLM_PYTHON", str(tmp_path / "none"))
    found = chosen(model=str(write_tiny_llava(tmp_path / "llava")))
    assert (found.place.family, found.engine) == (Family.CHAT, "transformers")
    assert found.endpoint.model == str(tmp_path / "llava")
    assert "vLLM is for GPUs" in found.why
    on_gpus = {"model": str(tmp_path / "llava"), "on_gpu": True}
    found = chosen(**on_gpus)
    assert (found.engine, found.why) == (
        "transformers",
        "vLLM, which is faster, is not installed here: `make vllm`",
    )
    assert chosen(**on_gpus, vllm_python=sys.executable).engine == "vllm"
    monkeypatch.delenv("VIGC_VLLM_PYTHON")
    with pytest.raises(ConfigError, match="continuous is for InstructBLIP models; llava runs with"):
        chosen(model=str(tmp_path / "llava"), engine="continuous")
    with pytest.raises(ConfigError, match="transformers is for other models"):
        chosen(engine="transformers")
    with pytest.raises(ConfigError, match="runs a model here"):
        chosen(model="http://127.0.0.1:1/v1", endpoint_model="m", engine="vllm")


def test_a_language_model_alone_and_what_is_no_model_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 8}))
    with pytest.raises(ModelError, match="type 'llama', which does not read images"):
        chosen(model=str(tmp_path))
    with pytest.raises(ModelError, match="no such folder. --model takes the folder of a saved model, a hub id"):
        chosen(model="./absent")
