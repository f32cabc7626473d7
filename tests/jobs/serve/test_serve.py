"""`vigc serve` at the terminal, and what `vigc bench serve` makes of what it counted."""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.request
from collections import Counter
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest
from local_service import data_uri
from ports import free_port
from waiting import WAIT_S, wait_until

from vigc.jobs.bench.serve import Level, _ratios
from vigc.serve.samples import samples


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--replicas", "0"], "--replicas: '0' is no range"),
        (["--engine", "fast"], "--engine: there is no 'fast'; use auto, continuous, reference, vllm or transformers"),
        (["--policy", "shipped"], "only the engine `reference` can"),
        (["--policy", "best"], "'best' is unknown"),
        (["--model", "/nowhere"], "/nowhere: no such folder"),
        (["--objects", "auto"], "auto"),
        (["--objects", "none", "--grounding", "asked"], "Name a vocabulary"),
        (["--device", "cuda"], "this machine has no GPU"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_setting_is_one_line_before_anything_starts(vigc_here, options, message, monkeypatch):
    monkeypatch.setattr("vigc.platform.pipeline.hardware.num_gpus", lambda: 0)
    result = vigc_here("serve", *options)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1


def test_a_port_that_is_taken_is_said_so(vigc_here):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = vigc_here("serve", "--port", taken.getsockname()[1])
    assert result.code == 2
    assert "cannot be listened on (Address already in use)" in result.err


@pytest.fixture
def service(vigc_started):
    """Starts the command; gives its process and what it says when it is ready."""
    started = []

    def start(*options):
        process = vigc_started("serve", "--json", "--port", free_port(), *options)
        started.append(process)
        said = ""
        while not said.endswith("}\n"):
            line = process.stdout.readline()
            assert line, process.stderr.read()
            said += line
        return process, json.loads(said)

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=WAIT_S)


def ask(url, key, **body):
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"{url}/v1/vigc", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
        return json.loads(answer.read())


@pytest.mark.slow
def test_the_command_answers_and_ends_cleanly(service, monkeypatch):
    monkeypatch.setenv("VIGC_API_KEYS", "secret")
    process, ready = service()
    assert ready["requires_key"]
    row = ask(ready["url"], "secret", image=data_uri(samples()["scene-0"].jpeg), kinds=["conversation"])
    assert row["conversations"][0]["answer"]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, err) == (130, "Stopped; all requests under way were answered.\n")


@pytest.mark.slow
@pytest.mark.parametrize("to", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_ends_the_service_when_all_requests_under_way_are_answered(service, to):
    """More requests than slots, most of them not at a replica yet. Ctrl-C and a closed terminal reach Ray, too."""
    process, ready = service("--replicas", 1, "--slots", 4)
    body = json.dumps({"image": data_uri(samples()["scene-4"].jpeg), "kinds": ["conversation"]})
    clients = [HTTPConnection(urlsplit(ready["url"]).netloc, timeout=WAIT_S) for _ in range(24)]
    for client in clients:
        client.request("POST", "/v1/vigc", body, {"Content-Type": "application/json"})
    wait_until(lambda: num_at_replica(ready["url"]) > 0)
    (os.kill if to == "SIGTERM" else os.killpg)(process.pid, getattr(signal, to))
    assert Counter(client.getresponse().status for client in clients) == {200: len(clients)}
    _, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, err) == (130, "Stopped; all requests under way were answered.\n")


def num_at_replica(url):
    with urllib.request.urlopen(f"{url}/readyz", timeout=WAIT_S) as answer:
        return json.loads(answer.read())["requests"]


def test_the_figures_of_a_load_are_those_that_were_counted():
    one = Level(1, 10.0, first_s=[0.1] * 20, end_s=[0.5] * 20, num_in_time=20)
    many = Level(32, 10.0, first_s=[1.0] * 99 + [3.0], end_s=[2.0] * 100, num_in_time=100, errors=Counter(reset=2))
    beyond = Level(200, 10.0, refused=7)
    figures = many.figures()
    assert (figures["requests_per_s_32"], figures["p50_s_32"], figures["p99_s_32"]) == (10.0, 2.0, 2.0)
    assert figures["first_p50_s_32"] == 1.0
    assert _ratios([one, many, beyond], limit=128) == {"errors_below_limit": 2, "speedup_32_clients": 5.0}
    assert _ratios([one, beyond], limit=300) == {"errors_below_limit": 7}
