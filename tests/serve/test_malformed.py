"""Two hundred requests that are wrong in some way, and what schemathesis makes of the service's own document: never a
500, never a hang.
"""

from __future__ import annotations

import json
import random

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from local_service import LocalService
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from vigc.serve.settings import ServeSettings

PATHS = ("/v1/vigc", "/v1/chat/completions")
CONTENT_TYPES = (
    "application/json", "text/plain", "application/jsonl", "multipart/form-data", "multipart/form-data; boundary=x",
    "multipart/form-data; boundary=", "application/x-www-form-urlencoded", "", "application/json; charset=utf-7", "ü",
)  # fmt: skip
ODD = (
    None, True, 0, -1, 1e308, 10**400, "", "x" * 3000, "\x00", "\ud800", [], {}, [[]], [{}], {"a": {"b": []}}, "💥" * 9,
    "data:image/png;base64,", "data:image/png;base64,AAAA", "data:;base64,====", "data:text/html,<b>", "http://",
    "https://127.0.0.1/x.png", "file:///etc/passwd", "//x", "javascript:alert(1)",
)  # fmt: skip


def broken(rng: random.Random, uri: str) -> dict[str, object]:
    """One request, made of a good one by damage of some kind."""
    path = rng.choice(PATHS)
    body = {"image": uri, "kinds": ["conversation"], "max_tokens": 20}
    if path == PATHS[1]:
        content = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": uri}}]
        body = {"model": "embedded", "messages": [{"role": "user", "content": content}], "max_tokens": 20}
    headers = {"content-type": "application/json"}
    data = json.dumps(body).encode()
    match rng.randrange(9):
        case 0:  # cut
            data = data[: rng.randrange(len(data))]
        case 1:  # noise
            data = rng.randbytes(rng.randrange(400))
        case 2:  # bits
            flipped = bytearray(data)
            for _ in range(rng.randrange(1, 20)):
                flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
            data = bytes(flipped)
        case 3:  # an odd value
            data = json.dumps(body | {rng.choice([*body, "stream", "objects", "n", "seed"]): rng.choice(ODD)}).encode()
        case 4:  # deep
            data = b"[" * 100_000 if rng.random() < 0.5 else b'{"a":' * 100_000
        case 5:  # another type
            headers["content-type"] = rng.choice(CONTENT_TYPES)
        case 6:  # another method, another path
            path = rng.choice(["/v1", "/v1/vigc/..", "/v1/models/%00", "/page/../app.py", "/page/%2e%2e/app.py", "//"])
        case 7:  # an odd part of a message
            message = {"role": rng.choice(["user", "system", "nobody"]), "content": rng.choice(ODD)}
            data = json.dumps({"model": "embedded", "messages": [message] * rng.choice([0, 1, 2, 300])}).encode()
        case 8:  # odd headers
            headers |= {"authorization": "Bearer \xff", "x-request-id": "\t" * 9, "content-length": "5"}
    method = rng.choice(["POST", "POST", "POST", "PUT", "GET"])
    return {"method": method, "url": path, "content": data, "headers": {k: v.encode() for k, v in headers.items()}}


def test_two_hundred_malformed_requests_are_refused_in_the_form_of_the_api(client, uri):
    rng = random.Random(5)
    statuses = []
    for number in range(200):
        request = broken(rng, uri)
        answer = client.request(**request)
        assert answer.status_code < 500, (number, request, answer.text)
        if answer.status_code >= 400:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
            assert "Traceback" not in answer.text
        statuses.append(answer.status_code)
    assert sum(status >= 400 for status in statuses) > 120


@pytest.mark.parametrize("path", ["/page/../app.py", "/page/%2e%2e/app.py", "/page/..%2fapp.py", "/page//etc/passwd"])
def test_no_file_beside_the_page_is_served(client, path):
    assert client.get(path).status_code == 404


def test_the_service_keeps_to_its_document():
    """Whatever the document allows, and some of what it does not, gets an answer that the document foresees."""
    service = LocalService(ServeSettings(max_upload_mib=0.01))
    schema = schemathesis.openapi.from_asgi("/openapi.json", service.with_middleware)
    operations = [found.ok() for found in schema.get_all_operations()]
    modes = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
    try:
        for operation in operations:
            if operation.path != "/metrics":  # which asks Ray
                for mode in modes if operation.method == "post" else modes[:1]:
                    keeps_to_document(operation.as_strategy(generation_mode=mode))
    finally:
        service.close()
    assert {operation.path for operation in operations} >= {*PATHS, "/v1/models", "/samples", "/healthz", "/readyz"}


QUICK = settings(
    max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
)


def keeps_to_document(cases):
    @QUICK
    @given(cases)
    def keeps(case):
        case.call_and_validate(checks=[not_a_server_error, status_code_conformance, response_schema_conformance])

    keeps()
