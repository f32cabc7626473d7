"""Images at addresses: fetched from where they may be, and this machine's own network is out of reach."""

from __future__ import annotations

import asyncio
import gzip
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from waiting import WAIT_S

from vigc.serve.errors import ApiError
from vigc.serve.web import WebImages, is_public

MAX_BYTES = 50_000


class Canary:
    """A server on loopback that notes what it is asked."""

    def __init__(self):
        self.asked: list[str] = []
        canary = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                canary.asked.append(f"{self.headers['Host']}{self.path}")
                canary.answer(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request):
        where = request.path.strip("/").split("?")[0]
        if where.startswith("to/"):
            request.send_response(302)
            request.send_header("Location", request.path.removeprefix("/to/"))
            request.end_headers()
            return
        request.send_response(404 if where == "missing" else 200)
        if where == "zipped":
            request.send_header("Content-Encoding", "gzip")
        if where == "claims":
            request.send_header("Content-Length", str(10**12))
        request.end_headers()
        if where == "drips":
            for _ in range(100):
                request.wfile.write(b"x")
                time.sleep(0.1)
        elif where == "endless":
            for _ in range(100):
                request.wfile.write(b"x" * 10_000)
        elif where == "zipped":
            request.wfile.write(gzip.compress(b"x" * 2_000_000, 1))
        else:
            request.wfile.write(b"an image")


@pytest.fixture(scope="module")
def canary():
    made = Canary()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture(autouse=True)
def forgets(canary):
    canary.asked.clear()


def fetch(url, *, allow=("*",), timeout_s=WAIT_S, **more):
    return asyncio.run(WebImages(allow, max_bytes=MAX_BYTES, timeout_s=timeout_s, **more).fetch(url))


def refusal(url, **more):
    with pytest.raises(ApiError) as error:
        fetch(url, **more)
    assert error.value.status_code == 400
    return error.value.body.code


LOOPBACKS = (
    "127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0.0.0.0", "[::1]", "[::]",
    "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::127.0.0.1]", "[2002:7f00:1::]", "127.0.0.1.", "LOCALHOST",
    "127。0。0。1",
)  # fmt: skip


@pytest.mark.parametrize("host", LOOPBACKS)
def test_loopback_is_never_reached_by_any_of_its_names(canary, host):
    url = f"http://{host}:{canary.port}/image"
    allow = ["*", f"*:{canary.port}", f"{host}:{canary.port}"]

    assert refusal(url, allow=allow) in ("image_url_not_allowed", "image_url_invalid", "image_url_failed")
    assert canary.asked == []


@pytest.mark.parametrize(
    "address",
    ["10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "198.18.0.1", "224.0.0.1", "240.0.0.1",
     "255.255.255.255", "fc00::1", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "2001:db8::1", "2001:0:7f00:1::",
     "::ffff:10.0.0.1", "64:ff9b::a9fe:a9fe"],
)  # fmt: skip
def test_what_is_not_of_the_internet_is_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"])
def test_what_is_of_the_internet_is_public(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://a.example/x", "gopher://a.example", "http://", "http:///x", "http://user@a.example/",
     "http://a.example@127.0.0.1/", "http://a.example:99999/", "http://[::1", "http://a.example:22/",
     "https://" + "a" * 3000, "http://a\r\nHost: b.example/"],
)  # fmt: skip
def test_what_is_no_address_of_an_image_is_refused(url):
    assert refusal(url).startswith("image_url_")


def resolving(*answers):
    """A resolver that answers so, one after the other; and how often it was asked."""
    asked = []

    async def resolve(host, port):
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    return resolve, asked


def test_one_private_address_among_public_ones_is_too_many(canary):
    resolve, _ = resolving(["93.184.215.14", "127.0.0.1"])
    assert refusal(f"http://a.example:{canary.port}/", allow=[f"a.example:{canary.port}"], resolve=resolve) == (
        "image_url_not_allowed"
    )
    assert canary.asked == []


def test_a_name_that_resolves_otherwise_later_gains_nothing(canary):
    """Rebinding: the connection goes to the address that was checked, and nobody asks for the name again."""
    resolve, asked = resolving(["192.0.2.9"], ["127.0.0.1"])

    def is_public(address):
        return address == "192.0.2.9"  # leads nowhere

    url, allow = f"http://a.example:{canary.port}/image", [f"a.example:{canary.port}"]
    code = refusal(url, allow=allow, resolve=resolve, is_public=is_public, timeout_s=2.0)
    assert code in ("image_url_timeout", "image_url_failed")  # as the network has it
    assert (asked, canary.asked) == (["a.example"], [])


def at_home(canary, **more):
    """What lets a test reach the canary: a name for it, and no check of its address."""
    resolve, _ = resolving(["127.0.0.1"])
    return {
        "allow": [f"a.example:{canary.port}"], "resolve": resolve, "is_public": lambda address: True, **more
    }  # fmt: skip


def test_an_image_of_an_allowed_host_is_fetched_under_the_host_s_own_name(canary):
    assert fetch(f"http://a.example:{canary.port}/image", **at_home(canary)) == b"an image"
    assert canary.asked == [f"a.example:{canary.port}/image"]


@pytest.mark.parametrize(
    ("host", "allow", "is_allowed"),
    [
        ("a.example", ["b.example"], False),
        ("a.example", ["A.example"], True),
        ("x.a.example", ["a.example"], False),
        ("x.a.example", ["*.a.example"], True),
        ("a.example", ["*.a.example"], False),
        ("evila.example", ["*.a.example"], False),
        ("a.example", ["*"], True),
        ("a.example", [], False),
    ],
)
def test_only_allowed_hosts_are_asked(canary, host, allow, is_allowed):
    settings = at_home(canary, allow=[f"{one}:{canary.port}" for one in allow])
    url = f"http://{host}:{canary.port}/image"
    if is_allowed:
        assert fetch(url, **settings) == b"an image"
    else:
        assert refusal(url, **settings) == "image_url_not_allowed"
        assert canary.asked == []


def test_another_port_has_to_be_allowed_by_name(canary):
    assert (
        refusal(f"http://a.example:{canary.port}/", **at_home(canary, allow=["a.example"])) == "image_url_not_allowed"
    )


def test_redirects_are_checked_like_addresses(canary):
    base = f"http://a.example:{canary.port}"
    assert fetch(f"{base}/to/{base}/image", **at_home(canary)) == b"an image"
    for target in (f"http://127.0.0.1:{canary.port}/secret", f"http://b.example:{canary.port}/secret", "file:///x"):
        canary.asked.clear()
        assert refusal(f"{base}/to/{target}", **at_home(canary)).startswith("image_url_")
        assert len(canary.asked) == 1
    loop = f"{base}/to/" * 8
    assert refusal(f"{loop}{base}/image", **at_home(canary)) == "image_url_failed"


def test_a_redirect_to_a_literal_private_address_is_refused_though_any_host_is_allowed(canary):
    resolve, _ = resolving(["127.0.0.1"])

    def is_public_but_home(address):
        return is_public(address) or (address == "127.0.0.1" and not canary.asked)

    allow = [f"*:{canary.port}"]
    url = f"http://a.example:{canary.port}/to/http://127.0.0.1:{canary.port}/secret"
    assert refusal(url, allow=allow, resolve=resolve, is_public=is_public_but_home) == "image_url_not_allowed"
    assert len(canary.asked) == 1


@pytest.mark.parametrize(
    ("path", "timeout_s", "code"),
    [
        ("endless", WAIT_S, "too_large"),
        ("claims", WAIT_S, "too_large"),
        ("drips", 1.0, "image_url_timeout"),
        ("missing", WAIT_S, "image_url_failed"),
    ],
)
def test_too_much_too_slow_and_nothing_are_refused(canary, path, timeout_s, code):
    assert refusal(f"http://a.example:{canary.port}/{path}", timeout_s=timeout_s, **at_home(canary)) == code


def test_a_compressed_body_is_not_unpacked(canary):
    assert len(fetch(f"http://a.example:{canary.port}/zipped", **at_home(canary))) <= 10_000
