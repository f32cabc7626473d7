"""The scripts behind figures that are final still run on today's code."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import bench_decode
import pytest

from vigc.platform.images import decode as images

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("[!g]*.py"))  # gpu_….py import what is on a GPU machine alone


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_what_a_script_imports_is_there(script):
    assert callable(runpy.run_path(str(script))["main"])


def test_decoding_is_compared_with_pillow_on_the_same_pictures(tmp_path):
    pixels = {
        path: images.decode(str(path), bench_decode.IMAGE_SIZE) for path in bench_decode.draw_photographs(tmp_path, 2)
    }
    for path, decoded in pixels.items():
        assert decoded.pixels == bench_decode._with_pillow(path)
        assert 50_000 < path.stat().st_size < 250_000  # as photographs of this size are
    json_file = tmp_path / "figures.json"
    bench_decode.decode(num=2, rounds=1, json_file=json_file)
    figures = json.loads(json_file.read_text())
    assert figures["ratio"] == pytest.approx(figures["images_per_s"] / figures["images_per_s_pillow"])
    assert figures["cores_for_8_a100"] == pytest.approx(73 / figures["images_per_s"])
