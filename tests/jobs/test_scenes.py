from __future__ import annotations

import json
from collections import Counter

from vigc.platform.sources import open_source


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_scenes_are_pictures_that_come_in_by_the_usual_door(vigc_here, tmp_path):
    made = vigc_here("scenes", tmp_path / "s", "--num", 6, "--seed", 3, "--json").json()

    source = open_source(str(tmp_path / "s"))
    assert made["written"] is True
    assert source.name == "coco"
    assert len(list(source)) == 6
    assert {path.suffix for path in (tmp_path / "s" / "images").iterdir()} == {".jpg", ".png"}
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_the_same_scenes_are_not_drawn_twice(vigc_here, tmp_path):
    vigc_here("scenes", tmp_path / "s", "--num", 3)
    before = (tmp_path / "s" / "annotations.json").stat().st_mtime_ns

    again = vigc_here("scenes", tmp_path / "s", "--num", 3)

    assert again.code == 0
    assert "already holds exactly these 3 scenes" in again.out
    assert (tmp_path / "s" / "annotations.json").stat().st_mtime_ns == before


def test_the_same_seed_draws_the_same_and_another_seed_does_not(vigc_here, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        vigc_here("scenes", tmp_path / name, "--num", 3, "--seed", seed)

    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


def test_other_scenes_are_refused_naming_the_difference(vigc_here, tmp_path):
    vigc_here("scenes", tmp_path / "s", "--num", 3)
    before = contents(tmp_path / "s")

    result = vigc_here("scenes", tmp_path / "s", "--num", 4, "--debiased")

    assert result.code == 2
    assert "num: 3 -> 4, debiased: False -> True" in result.err
    assert contents(tmp_path / "s") == before


def test_a_folder_with_other_files_is_left_alone(vigc_here, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "annotations.json").write_text(json.dumps({"images": []}))

    result = vigc_here("scenes", tmp_path / "letters")

    assert result.code == 2
    assert "holds no scenes of this program" in result.err


def test_a_lost_picture_is_noticed(vigc_here, tmp_path):
    vigc_here("scenes", tmp_path / "s", "--num", 3)
    (tmp_path / "s" / "images" / "000001.jpg").unlink()

    result = vigc_here("scenes", tmp_path / "s", "--num", 3)

    assert result.code == 2
    assert "lacks 1 of its images, such as 000001.jpg" in result.err


def test_crowded_scenes_hold_as_many_objects_as_asked_for(vigc_here, tmp_path):
    vigc_here("scenes", tmp_path / "s", "--num", 8, "--min-objects", 6, "--max-objects", 12)

    document = json.loads((tmp_path / "s" / "annotations.json").read_text())
    numbers = Counter(a["image_id"] for a in document["annotations"])
    assert len(numbers) == 8
    assert set(numbers.values()) <= set(range(6, 13))


def test_more_objects_at_least_than_at_most_are_refused(vigc_here, tmp_path):
    result = vigc_here("scenes", tmp_path / "s", "--min-objects", 6)

    assert result.code == 2
    assert "--min-objects 6 is more than --max-objects 5" in result.err
    assert not (tmp_path / "s").exists()
