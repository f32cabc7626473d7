"""The service with a model behind an endpoint: it speaks, it says who answers, and the server's refusals are told."""

from __future__ import annotations

import numpy as np
import pytest
from local_service import LocalService, data_uri
from PIL import Image
from vision_server import VisionServer

from vigc.platform.dataset.store import Store
from vigc.serve.settings import ServeSettings


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for number in range(3):
        small = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
        image = small.resize((96, 72), Image.Resampling.BICUBIC)
        image.save(folder / f"{number}.{'png' if number else 'jpg'}")
    image.resize((1500, 1200)).save(folder / "large.jpg")
    return folder


@pytest.fixture
def server():
    with VisionServer() as server:
        yield server


@pytest.fixture
def service(server):
    made = LocalService(ServeSettings(model=server.url, objects="none", patience_s=1))
    yield made
    made.close()


def chat(client, uri, **more):
    content = [{"type": "text", "text": "What is there?"}, {"type": "image_url", "image_url": {"url": uri}}]
    body = {"model": "tiny-vision", "messages": [{"role": "user", "content": content}], **more}
    return client.post("/v1/chat/completions", json=body)


def test_a_row_of_the_service_equals_the_row_of_a_run_at_the_same_endpoint(
    server, service, photographs, vigc_joined, tmp_path
):
    out = tmp_path / "data"
    made = vigc_joined("generate", photographs, "--out", out, "--model", server.url, "--seed", 3, "--temperature", 0.5)
    assert made.code == 0, made.err
    rows = {row["image_id"]: row for row in Store(out).rows()}
    assert len(rows) == 4
    for image_id, row in rows.items():
        body = {"image": data_uri((photographs / image_id).read_bytes()), "image_id": image_id}
        found = service.client.post("/v1/vigc", json=body | {"seed": 3, "temperature": 0.5}).json()
        assert found["usage"]["num_prompt"] > 0
        assert len(found["conversations"]) == 3
        assert all(spoken["answer"] for spoken in found["conversations"])
        assert found | {"uri": row["uri"], "pass": "001"} == row


def test_an_answer_in_a_chat_counts_what_the_server_counted(server, service, photographs):
    uri = data_uri((photographs / "0.jpg").read_bytes())
    before = server.num_prompt_tokens
    answer = chat(service.client, uri).json()
    assert answer["choices"][0]["message"]["content"].startswith("There is a")
    assert answer["usage"]["prompt_tokens"] == server.num_prompt_tokens - before > 0
    stream = chat(service.client, uri, stream=True, stream_options={"include_usage": True}).text
    assert f'"prompt_tokens": {answer["usage"]["prompt_tokens"]}' in stream


def test_the_list_says_which_model_answers_and_what_it_can_be_asked(service, photographs):
    (model,) = service.client.get("/v1/models").json()["data"]
    assert model["id"] == "tiny-vision"
    about = model["vigc"]
    assert (about["engine"], about["image_size"], about["image_pixels"]) == ("endpoint", None, 1024 * 1024)
    assert about["prompts"]["name"] == "vigc-on-ray-chat"
    assert about["groundings"] == ["none"]
    assert "shipped" not in about["policies"]
    uri = data_uri((photographs / "0.jpg").read_bytes())
    refused = service.client.post("/v1/vigc", json={"image": uri, "grounding": "blank"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "grounding")


def test_what_the_server_refuses_is_told_with_its_words(server, service, photographs, monkeypatch):
    uri = data_uri((photographs / "0.jpg").read_bytes())
    monkeypatch.setattr(server, "_key", "another")
    refused = service.client.post("/v1/vigc", json={"image": uri})
    assert (refused.status_code, refused.json()["error"]["code"]) == (502, "model_refused")
    assert "status 401: invalid key" in refused.json()["error"]["message"]
    monkeypatch.setattr(server, "_key", None)
    monkeypatch.setattr(server, "_models", ("other",))
    refused = chat(service.client, uri)
    assert refused.status_code == 502
    assert "no model tiny-vision" in refused.json()["error"]["message"]
    monkeypatch.setattr(server, "_models", ("tiny-vision",))
    monkeypatch.setattr(server, "_max_pixels", 1)
    refused = chat(service.client, uri)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "image_unreadable")
    assert "the image is too large" in refused.json()["error"]["message"]
    monkeypatch.setattr(server, "_max_pixels", None)
    monkeypatch.setattr(server, "_fault_rate", 1.0)
    monkeypatch.setattr(server, "_faults", ("500",))
    silent = service.client.post("/v1/vigc", json={"image": uri})
    assert (silent.status_code, silent.headers["retry-after"]) == (503, "1")
    assert "status 500: told to fail" in silent.json()["error"]["message"]
    monkeypatch.setattr(server, "_fault_rate", 0.0)
    assert chat(service.client, uri).status_code == 200


def test_an_endpoint_that_is_not_there_or_refuses_is_one_line_before_anything_starts(vigc_here, monkeypatch):
    with VisionServer(key="right") as server:
        refused = vigc_here("serve", "--model", server.url)
        assert refused.code == 2
        assert "refuses the key (401: invalid key)" in refused.err
        blank = vigc_here("serve", "--model", server.url, "--grounding", "blank")
        assert "is shown no blank image" in blank.err
    monkeypatch.setattr("vigc.model.engines.choose.FIND_PATIENCE_S", 0.5)
    gone = vigc_here("serve", "--model", server.url)
    assert gone.code == 2
    assert "gives no answer" in gone.err
    assert all(one.err.count("\n") == 1 for one in (refused, blank, gone))


def test_a_key_is_read_where_the_service_is_started(monkeypatch, photographs):
    monkeypatch.setenv("THE_KEY", "right")
    with VisionServer(key="right") as server:
        service = LocalService(ServeSettings(model=server.url, api_key_env="THE_KEY", objects="none"))
        try:
            assert chat(service.client, data_uri((photographs / "0.jpg").read_bytes())).status_code == 200
        finally:
            service.close()
