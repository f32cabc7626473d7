"""A data set by a model behind an endpoint: every row there, whatever the server does meanwhile."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from vision_server import FAULTS, VisionServer, sentences_about

from vigc.platform.dataset.store import Store
from vigc.platform.images.encode import encode_bytes

NUM = 30


def draw_photographs(folder, num):
    rng = np.random.default_rng(0)
    for number in range(num):
        small = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
        small.resize((96, 72), Image.Resampling.BICUBIC).save(folder / f"{number:03}.jpg", quality=90)
    return folder


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = draw_photographs(tmp_path_factory.mktemp("photographs"), NUM)
    (folder / "broken.jpg").write_bytes(b"words")
    return folder


def sent(path):
    """What the server sees of an image."""
    data = encode_bytes(path.read_bytes(), 1024, 10**8).pixels
    Image.open(io.BytesIO(data)).load()
    return data


def test_every_image_has_its_row_though_a_fifth_of_the_answers_are_faulty(vigc_joined, photographs, tmp_path):
    out = tmp_path / "data"
    with VisionServer(fault_rate=0.2, faults=("429", "500", "reset", "half a JSON", "HTML", "no choices")) as server:
        asked = ("generate", photographs, "--out", out, "--kinds", "detail", "--model", server.url)
        made = vigc_joined(*asked)
        assert made.code == 0, made.err
        assert f"tiny-vision, at {server.url}" in made.out
        num_requests = len(server.bodies)
        again = vigc_joined(*asked)
        assert again.code == 0
        assert "finished" in again.out
        assert len(server.bodies) == num_requests  # what is done is not asked again
    assert vigc_joined(*asked).code == 0  # nor is anything asked of a server that is gone
    request = Store(out).existing_passes()[0].request
    assert request["model"] == {"name": "tiny-vision", "weights": "endpoint", "reads_image": "once", "server": "tests"}
    card = tmp_path / "card"
    assert vigc_joined("export", out, "--format", "huggingface", "--out", card).code == 0
    told = (card / "README.md").read_text()
    assert "model tiny-vision, served by tests" in told
    assert "answered the question again, without its first answer" in told
    rows = {row["image_id"]: row for row in Store(out).rows()}
    assert len(rows) == NUM + 1
    assert rows["broken.jpg"]["error"]["kind"] == "not_an_image"
    check_answers(rows, photographs)
    assert vigc_joined("verify", out).code == 0


def check_answers(rows, folder):
    for path in sorted(folder.glob("[0-9]*.jpg")):
        (spoken,) = rows[path.name]["conversations"]
        assert spoken["answer"] == sentences_about(sent(path), 5), path


@pytest.mark.slow
def test_five_hundred_images_have_their_rows_whatever_the_server_does(vigc_joined, tmp_path):
    """Every fault that a server has, in a quarter of the answers, and half a minute in which it is gone."""
    photographs = draw_photographs(tmp_path, 500)
    out = tmp_path / "data"
    with VisionServer(fault_rate=0.25, outage_at=400, outage_s=30) as server:
        made = vigc_joined("generate", photographs, "--out", out, "--kinds", "detail", "--model", server.url)
        assert made.code == 0, made.err
        counts = server.counts
    assert counts["outage"]
    assert all(counts[fault] for fault in FAULTS)
    rows = {row["image_id"]: row for row in Store(out).rows()}
    assert len(rows) == 500
    check_answers(rows, photographs)
    assert vigc_joined("verify", out).code == 0


def test_a_key_that_is_refused_in_the_middle_ends_the_run_and_the_right_one_goes_on(
    vigc_joined, photographs, tmp_path, monkeypatch
):
    class Expiring(VisionServer):
        """Its key is another one from some answer on."""

        def _complete(self, handler):
            if self.counts["answered"] >= 40:  # several threads answer: one of them alone never sees 40
                self._key = "key-after-0815"
            super()._complete(handler)

    out = tmp_path / "data"
    monkeypatch.setenv("MY_KEY", "key-before-0815")
    with Expiring(key="key-before-0815") as server:
        asked = ("generate", photographs, "--out", out, "--kinds", "detail", "--model", server.url)
        asked += ("--api-key-env", "MY_KEY", "--concurrency", 2)
        ended = vigc_joined(*asked)
        assert ended.code == 2
        assert "refuses the key (401: invalid key). Put the right one in MY_KEY" in ended.err
        monkeypatch.setenv("MY_KEY", "key-after-0815")
        done = vigc_joined(*asked)
        assert done.code == 0, done.err
    rows = {row["image_id"]: row for row in Store(out).rows()}
    assert len(rows) == NUM + 1
    check_answers(rows, photographs)
    written = [path for path in out.rglob("*") if path.is_file()]
    assert not any(b"-0815" in path.read_bytes() for path in written)


def test_a_list_that_names_a_model_which_is_not_there_is_one_line(vigc_joined, photographs, tmp_path):
    class Lying(VisionServer):
        def _complete(self, handler):
            self._models = ("another",)
            super()._complete(handler)

    with Lying() as server:
        refused = vigc_joined("generate", photographs, "--out", tmp_path / "data", "--model", server.url)
    assert refused.code == 2
    assert "knows no model 'tiny-vision'" in refused.err
    assert refused.err.count("\n") == 1
    assert not (tmp_path / "data" / "passes").exists()


def test_what_a_content_filter_refuses_is_a_rejected_conversation_with_its_words(vigc_joined, photographs, tmp_path):
    import vision_server

    class Refusing(VisionServer):
        def _complete(self, handler):
            if self.counts["answered"] < 12:  # while it is asked what it can
                super()._complete(handler)
                return
            handler.rfile.read(int(handler.headers["Content-Length"]))
            vision_server._send(handler, 400, {"error": {"message": "blocked by content_filter: violence"}})

    out = tmp_path / "data"
    with Refusing() as server:
        made = vigc_joined(
            "generate", photographs, "--out", out, "--kinds", "detail", "--limit", 4, "--model", server.url
        )
    assert made.code == 0, made.err
    spoken = [one for row in Store(out).rows() for one in row["conversations"]]
    refused = [one for one in spoken if one["reasons"] == ["refused"]]
    assert refused
    assert all("violence" in one["error"]["message"] for one in refused)
