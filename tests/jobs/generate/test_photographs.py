"""Pictures as they come: colour and grey, with alpha, 16 bits deep, of odd sizes, JPEG, PNG, GIF and TIFF."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from vigc.platform.dataset.store import Store

SUFFIXES = {".jpg", ".png", ".gif", ".tif"}


@pytest.mark.slow
def test_every_photograph_of_scikit_image_gives_a_row(vigc_joined, tmp_path):
    spec = importlib.util.find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for file in sorted((Path(spec.origin).parent / "data").iterdir()):
        if file.suffix in SUFFIXES:
            shutil.copy(file, photographs)
    num = len(list(photographs.iterdir()))
    assert num >= 15
    out = tmp_path / "data"
    vigc_joined("generate", photographs, "--out", out, "--kinds", "detail", "--set", "max_steps=1")
    rows = list(Store(out).rows())
    assert len(rows) == num
    # The one that is no photograph: 3 x 10 x 10 floating-point numbers.
    assert [(row["image_id"], row["error"]["kind"]) for row in rows if row["error"]] == [
        ("multipage_rgb.tif", "unsupported")
    ]
    assert len({(row["width"], row["height"]) for row in rows}) > 5
    spoken = [row["conversations"][0] for row in rows if not row["error"]]
    assert all(c["answer"] or c["reasons"] for c in spoken)
