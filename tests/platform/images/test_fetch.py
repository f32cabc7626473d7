from __future__ import annotations

import io
import os
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import draw
from ports import free_port
from waiting import WAIT_S, wait_until

from vigc.platform.images import fetch, refused, remote
from vigc.platform.images import table_images as cells
from vigc.platform.images.decode import ERROR_KINDS
from vigc.platform.images.fetch import fetch_many
from vigc.platform.images.refused import MAX_BYTES, NUM_THREADS, Refused

NAMES = [f"picture {number}".encode() * 50 for number in range(400)]


def kind_of(uri):
    with pytest.raises(Refused) as refused:
        fetch.fetch(uri)
    assert refused.value.error.kind in ERROR_KINDS
    assert refused.value.error.message
    return refused.value.error.kind


# Files of this machine. What a bad file gives is tested with the corpus of test_images.


def test_a_path_and_a_file_address_give_the_same_bytes(tmp_path):
    path = tmp_path / "a b%20c.bin"
    path.write_bytes(b"abc")
    assert fetch.fetch(str(path)) == b"abc"
    assert fetch.fetch(f"file://{path}") == b"abc"
    (tmp_path / "d e").write_bytes(b"d")
    assert fetch.fetch(f"file://localhost{tmp_path}/d%20e") == b"d"


def test_a_file_that_may_not_be_read_says_so(tmp_path):
    path = draw(tmp_path / "locked.png", 1)
    path.chmod(0)
    as_root = os.geteuid() == 0
    try:
        if as_root:
            os.seteuid(65534)
        assert kind_of(str(path)) == "permission"
    finally:
        if as_root:
            os.seteuid(0)


def test_a_part_of_a_tar_is_its_member_and_a_file_of_that_very_name_wins(tmp_path):
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("a", "b"):
            member = tarfile.TarInfo(name)
            member.size = 5
            tar.addfile(member, io.BytesIO(name.encode() * 5))
    with tarfile.open(path) as tar:
        offset = tar.getmember("b").offset_data
    address = f"{path}#{offset}+5"
    assert fetch.fetch(address) == fetch.fetch(f"file://{address}") == b"bbbbb"
    assert kind_of(f"{path}#{offset}+0") == "empty"
    assert kind_of(f"{path}#{offset}+9999999") == "truncated"
    assert kind_of(f"{path}#{offset}+{MAX_BYTES + 1}") == "too_large"
    assert kind_of(f"{path}#{offset}") == "missing"
    (tmp_path / f"shard.tar#{offset}+5").write_bytes(b"itself")
    assert fetch.fetch(address) == b"itself"


# Cells of tables.


@pytest.fixture(params=["stream", "file", "parquet", "compressed"])
def table_file(request, tmp_path):
    """400 rows in 8 batches or row groups, the pictures once as bytes and once as `datasets` writes them."""
    structs = [{"bytes": name, "path": None} for name in NAMES]
    structs[3] = {"bytes": None, "path": "elsewhere.png"}
    table = pa.table({"raw": NAMES, "image": structs, "text": ["x"] * 400})
    path = tmp_path / "rows"
    if request.param == "parquet":
        pq.write_table(table, path, row_group_size=50)
    else:
        options = pa.ipc.IpcWriteOptions(compression="zstd" if request.param == "compressed" else None)
        new = pa.ipc.new_file if request.param == "file" else pa.ipc.new_stream
        with new(path, table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=50)
    return path


def test_every_row_of_a_table_is_found_in_any_order(table_file):
    for row in [*range(400), *range(399, -1, -7), 0, 399, 200]:
        assert fetch.fetch(f"{table_file}#row={row}&column=raw") == NAMES[row]
        if row != 3:
            assert fetch.fetch(f"file://{table_file}#row={row}&column=image") == NAMES[row]


def test_a_cell_that_is_not_there_or_no_picture_says_why(table_file, tmp_path):
    assert kind_of(f"{table_file}#row=400&column=raw") == "missing"
    assert kind_of(f"{table_file}#row=1&column=nothing") == "missing"
    assert kind_of(f"{table_file}#row=3&column=image") == "missing"
    assert kind_of(f"{table_file}#row=1&column=text") == "unsupported"
    assert kind_of(f"{tmp_path}/gone#row=1&column=raw") == "missing"
    assert kind_of(f"{tmp_path}#row=1&column=raw") == "not_an_image"
    broken = tmp_path / "broken"
    broken.write_bytes(table_file.read_bytes()[:1000])
    assert kind_of(f"{broken}#row=399&column=raw") == "unreadable"
    assert fetch.fetch(f"{table_file}#row=1&column=raw") == NAMES[1]


def test_a_cell_too_large_is_refused(table_file, monkeypatch):
    monkeypatch.setattr(refused, "MAX_BYTES", len(NAMES[5]) - 1)
    assert kind_of(f"{table_file}#row=5&column=raw") == "too_large"


def test_neighbouring_rows_are_read_from_one_batch_of_an_open_file(table_file, monkeypatch):
    opened = []
    monkeypatch.setattr(cells, "_Table", lambda file, make=cells._Table: opened.append(file) or make(file))
    for row in range(400):
        fetch.fetch(f"{table_file}#row={row}&column=raw")
    assert len(opened) == 1
    os.utime(table_file, ns=(1, 1))
    fetch.fetch(f"{table_file}#row=0&column=raw")
    assert len(opened) == 2


def test_a_parquet_file_of_one_large_group_is_read_a_few_rows_at_a_time(tmp_path, monkeypatch):
    pq.write_table(pa.table({"raw": NAMES}), tmp_path / "rows", use_dictionary=False)
    monkeypatch.setattr(cells, "MAX_BATCH_BYTES", 10_000)
    table = cells._Table(pa.memory_map(str(tmp_path / "rows")))
    for row in (0, 399, 17):
        assert table.cell(row, "raw").to_pybytes() == NAMES[row]
        assert table._batch.num_rows < 20


# The web: a real server on loopback that does what the path tells it.


class Site(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    body = b"picture" * 3000

    def do_GET(self):
        self.server.seen.append((self.path, time.monotonic()))
        what, _, rest = self.path[1:].partition("/")
        with self.server.lock:
            self.server.under_way += 1
            self.server.most = max(self.server.most, self.server.under_way)
        try:
            getattr(self, what)(rest)
        except OSError:  # the client is gone
            self.close_connection = True
        finally:
            with self.server.lock:
                self.server.under_way -= 1

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def good(self, rest):
        self.answer(200, self.body + rest.encode())

    def in_company(self, rest):
        """Answers as soon as eight have asked."""
        with self.server.lock:
            self.server.num_asked += 1
            if self.server.num_asked == 8:
                self.server.eight_asked.set()
        self.server.eight_asked.wait(WAIT_S)
        self.good(rest)

    def part(self, rest):
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        if first >= len(self.body):
            self.answer(416)
        else:
            self.answer(206, self.body[first : last + 1])

    def status(self, rest):
        self.answer(int(rest), b"<html>no</html>")

    def at_last(self, rest):
        """Answers the third time it is asked."""
        asked = sum(path == self.path for path, _ in self.server.seen)
        return self.good("") if asked >= 3 else self.answer(int(rest), Retry_After="1" if rest == "429" else "0")

    def breaks(self, rest):
        """Hangs up in the midst of the body, twice."""
        if sum(path == self.path for path, _ in self.server.seen) >= 3:
            return self.good("")
        self.answer(200, b"pict", Content_Length="100000")
        self.close_connection = True

    def hop(self, rest):
        self.answer(302, Location=f"/hop/{int(rest) - 1}" if int(rest) > 1 else "/good/")

    def endless(self, rest):
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        while True:
            self.wfile.write(bytes(2**16))

    def promises(self, rest):
        self.answer(200, b"", Content_Length=str(10**12))

    def drips(self, rest):
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        while True:
            self.wfile.write(b"x")
            time.sleep(0.05)

    def silent(self, rest):
        time.sleep(1.5)
        self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def site(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.seen, server.lock, server.under_way, server.most = [], threading.Lock(), 0, 0
    server.num_asked, server.eight_asked = 0, threading.Event()
    server.daemon_threads = True
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_web_gives_pictures_and_its_refusals_are_reasons_at_once(site):
    assert fetch.fetch(f"{site.url}/good/") == Site.body
    kinds = {code: kind_of(f"{site.url}/status/{code}") for code in (401, 403, 404, 410, 400)}
    assert kinds == {401: "permission", 403: "permission", 404: "missing", 410: "missing", 400: "unreadable"}
    assert len(site.seen) == 6  # none was asked twice
    assert kind_of("http://") == "unreadable"
    assert kind_of("http://[bad/a.jpg") == "unreadable"


@pytest.mark.parametrize("path", ["at_last/429", "at_last/500", "at_last/503", "breaks/"])
def test_what_passes_is_tried_again(site, path):
    assert fetch.fetch(f"{site.url}/{path}") == Site.body
    assert len(site.seen) == 3
    if path == "at_last/429":  # said to come back after a second
        assert all(later[1] - sooner[1] >= 1 for sooner, later in zip(site.seen, site.seen[1:], strict=False))


def test_a_few_redirects_are_followed_and_a_circle_of_them_is_not(site):
    assert fetch.fetch(f"{site.url}/hop/5") == Site.body
    assert kind_of(f"{site.url}/hop/6") == "unreadable"


def test_an_answer_without_end_and_one_that_says_it_is_too_long_are_refused(site, monkeypatch):
    monkeypatch.setattr(refused, "MAX_BYTES", 2**20)
    assert kind_of(f"{site.url}/endless/") == "too_large"
    assert kind_of(f"{site.url}/promises/") == "too_large"


@pytest.mark.parametrize("path", ["silent/", "drips/", "status/503"])
def test_a_server_that_never_delivers_is_given_up(site, monkeypatch, path):
    monkeypatch.setattr(remote, "HTTP_PATIENCE_S", 2)
    monkeypatch.setattr(remote, "HTTP_READ_S", 0.5)
    assert kind_of(f"{site.url}/{path}") == "unreadable"


def test_a_dead_host_is_given_up_and_not_asked_again_after_that(monkeypatch):
    monkeypatch.setattr(remote, "HTTP_PATIENCE_S", 2)
    asked = []
    monkeypatch.setattr(remote, "_request", lambda *a, ask=remote._request: asked.append(a) or ask(*a))
    assert kind_of(f"http://127.0.0.1:{free_port()}/a.jpg") == "unreadable"
    assert 1 < len(asked) <= 6  # with waits that double, no more fit into two seconds; into the usual 18 do


def test_a_part_of_a_file_on_the_web_is_asked_for_as_a_part(site):
    assert fetch.fetch(f"{site.url}/part/a.tar#7+14") == b"picture" * 2
    assert kind_of(f"{site.url}/part/a.tar#20995+10") == "truncated"
    assert kind_of(f"{site.url}/part/a.tar#99999+10") == "truncated"
    assert kind_of(f"{site.url}/good/a.tar#7+14") == "unreadable"
    assert kind_of(f"{site.url}/good/a.parquet#row=1&column=x") == "unsupported"


# Many at once.


def test_many_come_in_order_with_their_reasons_and_those_elsewhere_at_once(site, tmp_path):
    (tmp_path / "local").write_bytes(b"local")
    uris = [f"{site.url}/in_company/{number}" for number in range(40)]
    uris[5], uris[20], uris[39] = str(tmp_path / "local"), str(tmp_path / "gone"), f"{site.url}/status/404"
    got = list(fetch_many(uris))
    for number, found in enumerate(got):
        if number in (20, 39):
            assert isinstance(found, Refused)
            assert found.error.kind == "missing"
        else:
            assert found == (b"local" if number == 5 else Site.body + str(number).encode())
    assert 8 <= site.most <= NUM_THREADS  # as the server saw them


def test_no_more_than_so_many_bytes_are_fetched_ahead(site, monkeypatch):
    monkeypatch.setattr(fetch, "MAX_BYTES_AHEAD", 3 * len(Site.body))
    held, most = 0, 0
    body = remote._body

    def counted(response, reserve, give_up):
        nonlocal held, most
        data = body(response, reserve, give_up)
        held += 1
        most = max(most, held)
        return data

    monkeypatch.setattr(remote, "_body", counted)
    for found in fetch_many([f"{site.url}/good/" for _ in range(30)]):
        assert found == Site.body
        time.sleep(0.02)
        held -= 1
    assert 2 <= most <= 4


def test_a_picture_larger_than_what_may_be_fetched_ahead_still_comes(site, monkeypatch):
    monkeypatch.setattr(fetch, "MAX_BYTES_AHEAD", 10)
    assert list(fetch_many([f"{site.url}/good/" for _ in range(20)])) == [Site.body] * 20


def test_leaving_off_in_the_midst_leaves_no_thread_waiting(site, monkeypatch):
    monkeypatch.setattr(fetch, "MAX_BYTES_AHEAD", 10)
    coming = fetch_many([f"{site.url}/good/" for _ in range(20)])
    next(coming)
    coming.close()
    wait_until(lambda: not any(thread.name.startswith("vigc-fetch") for thread in threading.enumerate()))
