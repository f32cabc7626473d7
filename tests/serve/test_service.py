"""The service on a real Ray Serve: the real `openai` client, and what goes wrong with replicas and clients."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import openai
import pytest
from local_service import sse
from waiting import WAIT_S, wait_until

ALL_KINDS = ["conversation", "detail", "reasoning", "knowledge"]


def call(served, method, path, body=None, headers=None, timeout=WAIT_S):
    """Status, headers and text."""
    connection = http.client.HTTPConnection(urlsplit(served.url).netloc, timeout=timeout)
    data = None if body is None else json.dumps(body)
    try:
        connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()
    finally:
        connection.close()


def ask(served, **body):
    return call(served, "POST", "/v1/vigc", body)


@pytest.fixture
def asking(served):
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0)


def messages(uri, text="How many cups are there?"):
    content = [{"type": "text", "text": text}] if text else []
    return [{"role": "user", "content": [*content, {"type": "image_url", "image_url": {"url": uri}}]}]


def test_a_row_is_the_one_that_the_same_code_makes_without_ray(served, client, uri):
    body = {"image": uri, "image_id": "a", "kinds": ALL_KINDS, "temperature": 0.9, "seed": 4}
    status, headers, text = ask(served, **body)
    expected = client.post("/v1/vigc", json=body).json()
    assert status == 200

    def texts(row):
        return [(c["question"], c["vig_answer"], c["answer"], c["sentences"]) for c in row["conversations"]]

    assert texts(json.loads(text)) == texts(expected)
    assert headers["x-request-id"]
    assert json.loads(text)["pass"] is None


def test_events_come_while_the_model_speaks(served, uri):
    connection = http.client.HTTPConnection(urlsplit(served.url).netloc, timeout=WAIT_S)
    body = json.dumps({"image": uri, "kinds": ALL_KINDS, "stream": True})
    connection.request("POST", "/v1/vigc", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.getheader("content-type").startswith("text/event-stream")
    came, text = [], b""
    while chunk := answer.read1(65536):
        came.append(time.monotonic())
        text += chunk
    names = [name for name, _ in sse(text.decode())]
    assert names[:2] + names[-2:] == ["image", "question", "conversation", "row"]
    assert names.count("step") > 3
    assert came[-1] - came[0] > 0.05


def test_the_openai_client_lists_the_model(asking):
    model, _ = asking.models.list().data
    assert (model.id, model.object) == ("embedded", "model")
    assert asking.models.retrieve("embedded").vigc["image_size"] == 160


def test_the_openai_client_gets_an_answer(asking, uri):
    completion = asking.chat.completions.create(model="embedded", messages=messages(uri))
    (choice,) = completion.choices
    assert choice.message.content
    assert choice.finish_reason == "stop"
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    assert completion.vigc["question"] == "How many cups are there?"
    assert completion.vigc["num_tokens"] == completion.usage.completion_tokens


def test_the_openai_client_gets_it_sentence_by_sentence(asking, uri):
    options = {"model": "embedded", "messages": messages(uri, ""), "extra_body": {"kind": "detail"}}
    whole = asking.chat.completions.create(**options)
    chunks = list(asking.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))

    deltas = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert len(deltas) > 3
    assert "".join(deltas) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage == whole.usage
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


def test_a_limit_of_tokens_is_kept_and_said(asking, uri):
    completion = asking.chat.completions.create(
        model="embedded", messages=messages(uri, ""), extra_body={"kind": "detail"}, max_tokens=150
    )
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens <= 150


def test_the_openai_client_knows_our_errors(asking, uri):
    with pytest.raises(openai.NotFoundError, match="gpt-5"):
        asking.chat.completions.create(model="gpt-5", messages=messages(uri))
    with pytest.raises(openai.BadRequestError, match="n is not supported"):
        asking.chat.completions.create(model="embedded", messages=messages(uri), n=2)
    with pytest.raises(openai.BadRequestError) as error:
        asking.chat.completions.create(model="embedded", messages=[{"role": "user", "content": "Hello."}])
    assert (error.value.code, error.value.param) == ("missing_image", "messages")
    with pytest.raises(openai.BadRequestError) as error:
        asking.chat.completions.create(model="embedded", messages=messages("http://127.0.0.1:1/x.png"), stream=True)
    assert error.value.code == "image_url_not_allowed"


def test_a_server_on_loopback_is_never_reached(served):
    asked = []
    canary = socket.create_server(("127.0.0.1", 0))
    canary.settimeout(1)

    def listen():
        with suppress(TimeoutError):
            asked.append(canary.accept())

    listening = threading.Thread(target=listen)
    listening.start()
    port = canary.getsockname()[1]
    for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "127。0。0。1", "0"):
        assert ask(served, image=f"http://{host}:{port}/x.png")[0] == 400
    listening.join()
    canary.close()
    assert asked == []


# Load and leaving.


@contextmanager
def load(served, uri, num_clients, **body):
    """So many clients that ask one after the other; gives what they got: status and text."""
    answers, ends = [], threading.Event()

    def one():
        while not ends.is_set():
            answers.append(ask(served, image=uri, **{"kinds": ["conversation"], **body})[::2])

    with ThreadPoolExecutor(num_clients) as pool:
        clients = [pool.submit(one) for _ in range(num_clients)]
        try:
            yield answers
        finally:
            ends.set()
        for client in clients:
            client.result()


@pytest.mark.slow
def test_clients_that_leave_are_not_answered_to_the_end_and_free_their_slots(served, uri):
    for number in range(6):  # more than have room at once
        connection = http.client.HTTPConnection(urlsplit(served.url).netloc, timeout=WAIT_S)
        body = json.dumps({"image": uri, "stream": True, "kinds": ALL_KINDS})
        headers = {"Content-Type": "application/json", "X-Request-ID": f"leaves-{number}"}
        connection.request("POST", "/v1/vigc", body, headers)
        assert connection.getresponse().read1(20).startswith(b"event: image")
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
    wait_until(lambda: json.loads(call(served, "GET", "/readyz")[2])["requests"] == 0)
    lines = wait_until(lambda: (found := log_lines("leaves-")) and len(found) == 6 and found)
    assert {(line["status"], line["outcome"]) for line in lines} == {(200, "left by its client")}


def log_lines(what):
    """What the gateways have logged that holds these words."""
    import ray

    folder = Path(ray._private.worker._global_node.get_logs_dir_path()) / "serve"
    lines = [line for file in folder.glob("*Gateway*.log") for line in file.read_text().splitlines()]
    return [json.loads(line) for line in lines if what in line and '"outcome"' in line]


@pytest.mark.slow
def test_beyond_the_queue_there_are_clean_503s_and_then_it_goes_on(served, uri):
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda _: ask(served, image=uri, kinds=["detail"]), range(40)))
    counts = Counter(status for status, *_ in answers)
    assert set(counts) == {200, 503}
    assert counts[200] >= 8
    for status, headers, text in answers:
        if status == 503:
            assert int(headers["retry-after"]) >= 1
            assert json.loads(text)["error"]["code"] == "overloaded"
    assert ask(served, image=uri, kinds=["conversation"])[0] == 200


@pytest.mark.slow
def test_slow_clients_hold_up_nobody_and_are_given_up(served, uri):
    place = urlsplit(served.url)
    slow = []
    for number in range(60):
        connection = socket.create_connection((place.hostname, place.port), timeout=WAIT_S)
        head = b"POST /v1/vigc HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 500\r\n"
        connection.sendall(head + (b"\r\n{" if number % 2 else b"X-Slow: "))  # half of them in the middle of the head
        slow.append(connection)
    # More than the service takes at once: if they held anybody up, this would be refused.
    assert ask(served, image=uri, kinds=["conversation"])[0] == 200
    for connection in slow[1::2]:
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")
    for connection in slow:
        connection.close()


def replicas(deployment):
    import ray

    names = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
    return [name for name in names if name.startswith(f"SERVE_REPLICA::vigc#{deployment}#")]


@pytest.mark.slow
def test_a_replica_that_dies_under_load_costs_no_answer_and_no_word_of_a_stream(served, uri):
    import ray

    (before,) = replicas("EngineReplica")
    body = {"image": uri, "kinds": ["detail"], "stream": True, "temperature": 0.5}
    undisturbed = sse(ask(served, **body)[2])
    with load(served, uri, 3, kinds=["detail"]) as answers:
        wait_until(lambda: len(answers) >= 3)
        connection = http.client.HTTPConnection(urlsplit(served.url).netloc, timeout=WAIT_S)
        connection.request("POST", "/v1/vigc", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = b""
        while b"event: step" not in text:
            text += answer.read1(65536)
        ray.kill(ray.get_actor(before, namespace="serve"))
        killed_at = len(answers)
        text += answer.read()
        wait_until(lambda: len(answers) >= killed_at + 6)
    assert replicas("EngineReplica") != [before]
    assert [text for status, text in answers if status != 200] == []
    assert len({json.loads(text)["conversations"][0]["answer"] for _, text in answers}) == 1

    def told(events):
        return [(name, data.get("kept"), data.get("answer")) for name, data in events]

    assert told(sse(text.decode())) == told(undisturbed)


@pytest.mark.slow
def test_a_redeploy_loses_no_request(served, uri):
    before = {name: replicas(name) for name in ("EngineReplica", "Gateway")}
    served.settings = served.settings.model_copy(update={"answer_timeout_s": 299})
    with load(served, uri, 4) as answers:
        wait_until(lambda: len(answers) >= 4)
        served.deploy()
        deployed_at = len(answers)
        wait_until(lambda: len(answers) >= deployed_at + 8)
    assert [text for status, text in answers if status != 200] == []
    assert not set(before["EngineReplica"]) & set(replicas("EngineReplica"))
    assert not set(before["Gateway"]) & set(replicas("Gateway"))


@pytest.mark.slow
def test_replicas_follow_the_load_and_no_answer_is_lost_on_the_way(served, uri):
    scaled = {"replicas": (1, 2), "target_ongoing": 1, "upscale_delay_s": 1, "downscale_delay_s": 2, "threads": 1}
    served.settings = served.settings.model_copy(update=scaled)
    served.deploy()
    wait_until(lambda: len(replicas("EngineReplica")) == 1)
    with load(served, uri, 4) as answers:
        wait_until(lambda: len(replicas("EngineReplica")) == 2)
        scaled_at = len(answers)
        wait_until(lambda: len(answers) >= scaled_at + 40)
    with load(served, uri, 1) as later:
        wait_until(lambda: len(replicas("EngineReplica")) == 1)
    assert [text for status, text in answers + later if status != 200] == []


def test_each_request_is_a_line_of_json_in_the_log(served):

    call(served, "GET", "/healthz", headers={"X-Request-ID": "find-me"})
    (line,) = wait_until(lambda: log_lines("find-me"))
    assert (line["request_id"], line["status"], line["message"]) == ("find-me", 200, "GET /healthz 200")


def test_prometheus_gets_our_figures_and_serve_s(served):
    wanted = (
        "vigc_requests_total", "vigc_requests_open", "vigc_first_sentence_seconds_bucket", "vigc_answer_seconds_sum",
        "vigc_tokens_total", "vigc_engine_slots", "vigc_engine_requests", "serve_deployment_queued_queries",
    )  # fmt: skip
    text = ""

    def is_complete():
        nonlocal text
        status, headers, text = call(served, "GET", "/metrics")
        assert (status, headers["content-type"].split(";")[0]) == (200, "text/plain")
        return all(f"ray_{name}{{" in text for name in wanted)

    try:
        wait_until(is_complete)
    except AssertionError:
        pytest.fail(f"missing: {[name for name in wanted if f'ray_{name}{{' not in text]}")
    assert text.count("# TYPE ray_vigc_tokens_total ") == 1
