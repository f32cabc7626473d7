"""`vigc pope`: the files it writes."""

from __future__ import annotations

import json
from pathlib import Path

from vigc.platform.quality.pope import SPLITS


def test_pope_from_scenes_and_from_a_manifest_are_the_same_files(vigc_here, scenes_dir, tmp_path):
    import pyarrow.parquet as pq

    from vigc.platform.sources import open_source

    (table,) = open_source(str(scenes_dir)).tables()
    pq.write_table(table, tmp_path / "manifest.parquet")
    (tmp_path / "own.yaml").write_text("categories: {ball: , boat: , car: , chair: , house: , tree: }")
    results = []
    for name, place in (("a", scenes_dir), ("b", tmp_path / "manifest.parquet")):
        out = tmp_path / name / "pope.jsonl"
        found = vigc_here("pope", place, "--out", out, "--num-objects", 2, "--objects", tmp_path / "own.yaml", "--json")
        assert found.code == 0, found.err
        results.append({split: Path(file).read_text() for split, file in found.json()["files"].items()})
    assert results[0] == results[1]
    assert set(results[0]) == set(SPLITS)
    lines = [json.loads(line) for line in results[0]["adversarial"].splitlines()]
    assert all(list(line) == ["question_id", "image", "text", "label"] for line in lines)
    assert all((scenes_dir / "images" / line["image"]).exists() for line in lines)
    one = tmp_path / "one.jsonl"
    said = vigc_here("pope", scenes_dir, "--out", one, "--split", "popular", "--num-objects", 2)
    assert f"popular      {one}" in said.out
    assert one.read_text().count('"yes"') == one.read_text().count('"no"') > 10


def test_a_source_without_annotations_is_one_line(vigc_here, scenes_dir, tmp_path):
    result = vigc_here("pope", scenes_dir / "images", "--out", tmp_path / "pope.jsonl")
    assert result.code == 2
    assert "no annotated objects" in result.err
    assert "use random, popular" in vigc_here("pope", scenes_dir, "--out", "x", "--split", "most").err
