"""A data set by a model behind an endpoint: every row there, whatever the server does meanwhile."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from vision_server import VisionServer, sentences_about

from vigc.platform.dataset.store import Store
from vigc.platform.images.encode import encode_bytes

NUM = 30


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for number in range(NUM):
        small = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
        small.resize((96, 72), Image.Resampling.BICUBIC).save(folder / f"{number:02}.jpg", quality=90)
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
    rows = {row["image_id"]: row for row in Store(out).rows()}
    assert len(rows) == NUM + 1
    assert rows["broken.jpg"]["error"]["kind"] == "not_an_image"
    for path in sorted(photographs.glob("[0-9]*.jpg")):
        (spoken,) = rows[path.name]["conversations"]
        assert spoken["answer"] == sentences_about(sent(path), 5), path
    assert vigc_joined("verify", out).code == 0


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
