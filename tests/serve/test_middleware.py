"""Keys, sizes, times and errors: what every request passes."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest
from local_service import LocalService, sse

from vigc.serve.errors import ApiError
from vigc.serve.middleware import ApiKeys, BodyMemory
from vigc.serve.settings import ServeSettings

SETTINGS = ServeSettings(max_upload_mib=0.5, max_batch_mib=0.2, max_batch_lines=3, samples=False, max_held_mib=2)


async def fails(task):
    raise RuntimeError("a fault at /secret/path")
    yield


@pytest.fixture(scope="module")
def service():
    made = LocalService(SETTINGS, converse=fails, keys="one, two")
    yield made
    made.close()


@pytest.fixture
def client(service):
    return service.client


KEY = {"authorization": "Bearer two"}


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer three", "Bearer one,two", "Basic two", "two", "Bearer tw", "Bearer two\x7f"]
)
def test_without_a_known_key_nothing_is_said(client, header):
    for path in ("/v1/models", "/v1/models/x", "/metrics"):
        answer = client.get(path, headers={"authorization": header} if header else {})
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
    assert client.post("/v1/vigc", json={}, headers={"authorization": header}).status_code == 401


@pytest.mark.parametrize("header", ["Bearer one", "Bearer two", "bearer two"])
def test_each_key_opens(client, header):
    assert client.get("/v1/models", headers={"authorization": header}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/openapi.json", "/samples", "/page/index.html"])
def test_the_page_and_the_health_need_no_key(client, path):
    assert client.get(path).status_code == 200


def test_keys_are_compared_in_constant_time(monkeypatch):
    """All of them, and by hmac's function."""
    compared = []
    monkeypatch.setattr(
        "vigc.serve.middleware.hmac.compare_digest", lambda a, b: bool(compared.append((a, b)) or a == b)
    )
    ApiKeys("one,two,three").check("Bearer one")
    assert len(compared) == 3
    assert {len(side) for pair in compared for side in pair} == {32}
    with pytest.raises(ApiError):
        ApiKeys("one").check("Bearer ")
    assert not ApiKeys(" , ")


HERE = ["127.0.0.1", "::1", "localhost"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "127.0.0.1:8000"}, 200),
        ({"host": "localhost"}, 200),
        ({"host": "LOCALHOST:1"}, 200),
        ({"host": "[::1]:8000", "origin": "http://[::1]:8000"}, 200),
        ({"host": "localhost", "origin": "https://friend.example"}, 200),
        ({"host": "rebound.example:8000"}, 421),
        ({"host": "localhost.rebound.example"}, 421),
        ({"host": "127.0.0.1@rebound.example"}, 421),
        ({"host": "[::1"}, 421),
        ({"host": ""}, 421),
        ({"host": "localhost", "origin": "https://stranger.example"}, 403),
        ({"host": "localhost", "origin": "null"}, 403),
    ],
)
def test_pages_of_others_do_not_reach_a_service_that_has_no_keys(headers, status):
    service = LocalService(
        ServeSettings(host_names=HERE, cors_origins=["https://friend.example"], samples=False), converse=fails
    )
    try:
        for path in ("/", "/v1/models", "/healthz"):
            answer = service.client.get(path, headers=headers)
            assert answer.status_code == status
            if status != 200:
                assert answer.json()["error"]["code"] == {421: "wrong_host", 403: "wrong_origin"}[status]
    finally:
        service.close()


def test_every_answer_has_an_id_and_is_closed_to_scripts_of_others(client):
    for answer in (client.get("/"), client.get("/nowhere"), client.get("/v1/models")):
        assert answer.headers["x-request-id"]
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in answer.headers
    given = client.get("/healthz", headers={"x-request-id": "mine-1", "origin": "https://evil.example"})
    assert given.headers["x-request-id"] == "mine-1"
    assert "access-control-allow-origin" not in given.headers
    assert client.get("/healthz", headers={"x-request-id": "a b\tc"}).headers["x-request-id"] != "a b\tc"


def test_other_origins_may_ask_where_they_are_named():
    service = LocalService(ServeSettings(cors_origins=["https://good.example"]), converse=fails)
    try:
        good, evil = ({"origin": f"https://{name}.example"} for name in ("good", "evil"))
        assert service.client.get("/healthz", headers=good).headers["access-control-allow-origin"] == good["origin"]
        assert "access-control-allow-origin" not in service.client.get("/healthz", headers=evil).headers
    finally:
        service.close()


def test_bodies_that_are_too_large_are_refused_before_they_are_read(client):
    large = b"x" * (SETTINGS.max_body_bytes + 1)
    answer = client.post("/v1/vigc", content=large, headers=KEY | {"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    files = {"image": ("a.jpg", large, "image/jpeg")}
    assert client.post("/v1/vigc", files=files, headers=KEY).status_code == 413
    lines = KEY | {"content-type": "application/jsonl"}
    assert client.post("/v1/vigc", content=b"x" * 300_000, headers=lines).status_code == 413
    assert client.post("/v1/vigc", content=b"{}\n" * 4, headers=lines).status_code == 413


def test_an_image_above_the_limit_is_refused_though_its_body_is_not(client):
    files = {"image": ("a.jpg", b"x" * (SETTINGS.max_upload_bytes + 1), "image/jpeg")}
    answer = client.post("/v1/vigc", files=files, headers=KEY)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


def asked(service, receive, path="/v1/vigc", content_type=b"application/json"):
    """One request of raw ASGI messages."""
    sent = []
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [(b"authorization", b"Bearer one"), (b"content-type", content_type)],
        "scheme": "http", "server": ("a", 80), "client": ("b", 1), "http_version": "1.1", "root_path": "", "asgi": {},
    }  # fmt: skip

    async def send(message):
        sent.append(message)

    asyncio.run(service.with_middleware(scope, receive, send))
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent[1:]))


def test_a_body_without_an_end_is_refused_where_it_has_become_too_large(service):
    pieces = []

    async def endless():
        pieces.append(65536)
        return {"type": "http.request", "body": b"x" * 65536, "more_body": True}

    status, body = asked(service, endless)
    assert (status, body["error"]["code"]) == (413, "request_too_large")
    assert sum(pieces) <= SETTINGS.max_body_bytes + 65536


def test_bodies_of_many_are_held_up_to_a_limit_until_they_are_answered():
    held = BodyMemory(10)
    with held.of_one() as first, held.of_one() as second:
        first(6)
        second(4)
        with pytest.raises(ApiError) as error:
            second(1)
        assert (error.value.status_code, error.value.body.code) == (503, "overloaded")
    with held.of_one() as third:
        third(10)


def test_a_service_that_may_hold_nothing_takes_nothing():
    service = LocalService(ServeSettings(max_held_mib=0.001), converse=fails)
    try:
        answer = service.client.post("/v1/vigc", content=b"x" * 2000, headers={"content-type": "application/json"})
    finally:
        service.close()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_a_body_that_drips_is_given_up():
    async def drip():
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b" ", "more_body": True}

    service = LocalService(ServeSettings(body_timeout_s=0.3), converse=fails)
    try:
        status, body = asked(service, drip)
    finally:
        service.close()
    assert (status, body["error"]["code"]) == (408, "request_timeout")


def test_a_fault_is_told_without_its_traceback_and_logged_with_it(client, uri, caplog):
    with caplog.at_level(logging.INFO, "ray.serve"):
        answer = client.post("/v1/vigc", json={"image": uri}, headers=KEY)
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "secret" not in answer.text
    assert "/secret/path" in caplog.text


def test_a_fault_in_the_middle_of_a_stream_ends_it_with_an_error(uri, caplog):
    from vigc.serve.messages import Started

    async def begins(task):
        yield Started(None)
        raise RuntimeError("a fault at /secret/path")

    service = LocalService(ServeSettings(), converse=begins)
    try:
        with caplog.at_level(logging.INFO, "ray.serve"):
            answer = service.client.post("/v1/vigc", json={"image": uri, "stream": True})
    finally:
        service.close()
    assert [(name, data.get("error", {}).get("code")) for name, data in sse(answer.text)] == [
        ("image", None),
        ("error", "internal_error"),
    ]
    assert "secret" not in answer.text
    assert "/secret/path" in caplog.text


def test_each_request_leaves_one_line_with_its_id(client, caplog):
    with caplog.at_level(logging.INFO, "ray.serve"):
        client.get("/v1/models", headers=KEY | {"x-request-id": "abc"})
    (line,) = [record for record in caplog.records if record.name == "ray.serve"]
    assert (line.vigc_request_id, line.status, line.outcome, line.method) == ("abc", 200, "answered", "GET")
    assert line.getMessage() == "GET /v1/models 200"
