"""`vigc serve` as the endpoint of `vigc generate`: the model itself answers; the rows are those of an engine here."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from urllib.request import Request, urlopen

import pytest
from local_service import LocalService, data_uri
from waiting import WAIT_S

from vigc.jobs.scenes import make_scenes
from vigc.model.prompts import DEFAULT, load_pack
from vigc.platform.dataset.store import Store
from vigc.serve.samples import samples
from vigc.serve.settings import ServeSettings


@pytest.fixture(scope="module")
def service():
    made = LocalService(ServeSettings())
    yield made
    made.close()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """PNG files, larger than what the model sees."""
    folder = tmp_path_factory.mktemp("as_endpoint") / "scenes"
    make_scenes(folder, num=3, seed=31, min_objects=5, max_objects=9)
    return folder


def rows(out):
    """Without what only a server counts and with measures apart, whose last bits go with who else is decoded."""
    found, measured = {}, []
    for row in Store(out).rows():
        for spoken in row["conversations"]:
            measured += [step.pop("mean_logprob") or 0 for step in spoken["steps"]]
            sentences = (*spoken["sentences"], *spoken["vig_sentences"])
            measured += [value for one in sentences if (value := one.pop("grounding")) is not None]
        found[row["image_id"]] = row | {"usage": None}
    return dict(sorted(found.items())), measured


@pytest.mark.parametrize(
    "options",
    [
        [],
        pytest.param(["--policy", "verified", "--correct", "candidates", "--seed", "4"], marks=pytest.mark.slow),
        pytest.param(["--policy", "shipped", "--set", "num_beams=1"], marks=pytest.mark.slow),
        pytest.param(["--temperature", "0.8", "--kinds", "knowledge,detail", "--seed", "5"], marks=pytest.mark.slow),
    ],
    ids=["greedy", "verified", "shipped", "sampled"],
)
def test_rows_by_endpoint_are_rows_by_engine_word_for_word(service, scenes, vigc_joined, tmp_path, options):
    images = ("generate", scenes / "images", "--annotations", scenes / "annotations.json")
    by_engine = vigc_joined(*images, "--out", tmp_path / "engine", *options)
    assert by_engine.code == 0, by_engine.err
    with service.listening() as url:
        by_endpoint = vigc_joined(*images, "--out", tmp_path / "endpoint", "--model", url, *options)
        assert by_endpoint.code == 0, by_endpoint.err
    assert "anew at each step" in by_endpoint.out
    (made,) = Store(tmp_path / "endpoint").existing_passes()
    assert made.request["model"] == {"name": "embedded-itself", "weights": "endpoint", "server": "vigc"}
    expected, measured = rows(tmp_path / "engine")
    found, measured_there = rows(tmp_path / "endpoint")
    assert len(found) == 3
    assert found == expected
    assert sum(len(spoken["steps"]) for row in found.values() for spoken in row["conversations"]) > 9
    assert measured_there == pytest.approx(measured, abs=1e-3)


def test_a_service_answers_many_at_once_whenever_it_listens(service):
    image = {"type": "image_url", "image_url": {"url": data_uri(samples()["scene-2"].jpeg)}}
    turn = {"role": "user", "content": [image, {"type": "text", "text": "Describe."}]}
    body = json.dumps({"model": "embedded-itself", "max_tokens": 1, "messages": [turn]}).encode()

    def status(url):
        asked = Request(f"{url}/chat/completions", body, {"Content-Type": "application/json"})
        with urlopen(asked, timeout=WAIT_S) as answer:
            return answer.status

    for _ in range(2):
        with service.listening() as url, ThreadPoolExecutor(8) as pool:
            assert set(pool.map(status, [url] * 16)) == {200}


def ask(service, text="How many cups are there?", begun=None, **more):
    image = {"type": "image_url", "image_url": {"url": data_uri(samples()["scene-2"].jpeg)}}
    turns = [{"role": "user", "content": [image, {"type": "text", "text": text}]}]
    if begun is not None:
        turns.append({"role": "assistant", "content": begun})
        more |= {"continue_final_message": True, "add_generation_prompt": False}
    body = {"model": "embedded-itself", "messages": turns, **more}
    return service.client.post("/v1/chat/completions", json=body)


def test_the_list_names_the_model_itself_beside_the_one_whose_answers_are_corrected(service):
    corrected, itself = service.client.get("/v1/models").json()["data"]
    assert (corrected["id"], itself["id"]) == ("embedded", "embedded-itself")
    about = itself["vigc"]
    assert (about["rereads_image"], about["image_size"], about["prompts"]["hash"]) == (True, 160, load_pack().hash)
    assert service.client.get("/v1/models/embedded-itself").json()["vigc"] == about


def test_the_model_itself_does_exactly_what_is_asked(service):
    prompt = load_pack().vig_prompt("detail")
    whole = ask(service, prompt).json()["choices"][0]
    text = whole["message"]["content"]
    assert text.lstrip().startswith("Question:")
    half = text[: len(text) // 2].rpartition(" ")[0]
    assert (
        half
        + ask(service, prompt, begun=half, vigc={"qformer_text": prompt}).json()["choices"][0]["message"]["content"]
        == text
    )
    cut = ask(service, prompt, max_tokens=3).json()
    assert (cut["choices"][0]["finish_reason"], cut["usage"]["completion_tokens"]) == ("length", 3)
    sampled = [ask(service, prompt, n=2, temperature=1.0, seed=seed).json()["choices"] for seed in (7, 7, 8)]
    texts = [[one["message"]["content"] for one in choices] for choices in sampled]
    assert len(texts[0]) == 2
    assert texts[0] == texts[1] != texts[2]


def test_yes_and_no_have_log_probabilities(service):
    prompt = load_pack().presence.about("cup")
    (entry,) = ask(service, prompt, max_tokens=1, logprobs=True).json()["choices"][0]["logprobs"]["content"]
    likely = {one["token"]: one["logprob"] for one in entry["top_logprobs"]}
    assert set(likely) == {"Yes", "No"}
    assert likely[entry["token"].strip()] == max(likely.values())


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"stream": True}, "stream"),
        ({"logprobs": True}, "logprobs"),
        ({"n": 99}, "n"),
        ({"policy": "paper"}, "policy"),
        ({"text": " "}, "messages"),
        ({"text": "a" * 20_001}, "messages"),
    ],
    ids=lambda value: "".join(value)[:20] if isinstance(value, dict) else "",
)
def test_what_the_model_itself_does_not_do_is_refused(service, more, param):
    refused = ask(service, **more)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_another_prompt_pack_than_the_servers_is_refused_before_anything_starts(tmp_path, vigc_here, scenes):
    pack = DEFAULT.read_text().replace("vigc-on-ray", "another")
    (tmp_path / "another.yaml").write_text(pack)
    service = LocalService(ServeSettings(prompts=str(tmp_path / "another.yaml")))
    try:
        with service.listening() as url:
            refused = vigc_here("generate", scenes / "images", "--out", tmp_path / "data", "--model", url)
    finally:
        service.close()
    assert refused.code == 2
    assert "the prompt pack 'another'" in refused.err
