from __future__ import annotations

import json
import os

import pytest
from datasets import draw

from vigc.platform.records import ConfigError, InputError, ObjectBox
from vigc.platform.sources import open_source

COCO = {
    "images": [
        {"id": 7, "file_name": "a.png", "width": 40, "height": 30},
        {"id": 8, "file_name": "deep/b.png"},
    ],
    "annotations": [
        {"image_id": 7, "category_id": 1, "bbox": [1, 2, 3.5, 4], "iscrowd": 1},
        {"image_id": 7, "caption": "A dog."},
    ],
    "categories": [{"id": 1, "name": "dog"}],
}


def ids(source):
    return [record.image_id for record in source]


def write_coco(folder, **changes):
    (folder / "images").mkdir(exist_ok=True)
    path = folder / "annotations.json"
    path.write_text(json.dumps(COCO | changes))
    return path


def test_a_folder_is_listed_with_its_subfolders_in_order(tmp_path):
    for name in ("b.PNG", "a/z.jpeg", "a/y.webp", "c.txt", ".hidden.png", ".git/x.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"not looked at")
    source = open_source(str(tmp_path))
    assert ids(source) == ids(source) == ["a/y.webp", "a/z.jpeg", "b.PNG"]
    assert next(iter(source)).uri == str(tmp_path / "a/y.webp")


def test_linked_folders_are_followed_but_not_round_in_circles(tmp_path):
    draw(tmp_path / "elsewhere" / "x.png", 1)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "broken.png").symlink_to(tmp_path / "gone.png")
    assert ids(open_source(str(tmp_path / "in"))) == ["broken.png", "linked/x.png"]


def test_any_file_name_that_is_text_becomes_an_id_and_opens(tmp_path):
    names = ["a b.png", "ü 🐕.png", "quo\"te's.png", "new\nline.png", "100%25.png", "x#1?.png", "-rf.png"]
    for seed, name in enumerate(names):
        draw(tmp_path / name, seed)
    records = list(open_source(str(tmp_path)))
    assert sorted(record.image_id for record in records) == sorted(names)
    assert all(os.path.isfile(record.uri) for record in records)


def test_a_file_name_that_is_no_text_is_named(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    with pytest.raises(InputError, match=r"caf\\udce9\.png' is not valid UTF-8"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("location", ["missing", "empty", "file.txt"])
def test_a_place_without_images_is_an_error_that_names_it(tmp_path, location):
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    (tmp_path / "file.txt").touch()
    with pytest.raises(InputError, match=location):
        open_source(str(tmp_path / location))


def test_coco_gives_boxes_crowds_captions_and_sizes(tmp_path):
    write_coco(tmp_path)
    first, second = open_source(str(tmp_path))
    assert (first.image_id, first.width, first.height) == ("a.png", 40, 30)
    assert first.objects == [ObjectBox("dog", [1.0, 2.0, 3.5, 4.0], True)]
    assert first.captions == ["A dog."]
    assert (second.objects, second.captions, second.width) == ([], None, None)
    assert second.uri == str(tmp_path / "images" / "deep/b.png")


def test_objects_are_unknown_when_nobody_annotated_any(tmp_path):
    write_coco(tmp_path, annotations=[], categories=[])
    assert next(iter(open_source(str(tmp_path)))).objects is None


def test_coco_is_found_by_folder_by_file_and_by_name(tmp_path):
    path = write_coco(tmp_path)
    other = tmp_path / "elsewhere"
    other.mkdir()
    assert ids(open_source(str(tmp_path))) == ids(open_source(str(path))) == ["a.png", "deep/b.png"]
    named = open_source(str(other), annotations=str(path))
    assert next(iter(named)).uri == str(other / "a.png")
    draw(tmp_path / "images" / "c.png", 1)
    assert ids(open_source(str(tmp_path), source="folder")) == ["images/c.png"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 3}, "'images' is not a list"),
        ({"images": [{"id": 1}]}, r"images\[0\] needs an 'id' and a 'file_name'"),
        ({"images": [{"id": 1, "file_name": "\ud800.png"}]}, r"images\[0\] needs"),
        ({"images": [{"id": 1, "file_name": "a", "width": "4 px"}]}, "not a whole number"),
        (
            {"images": [{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "a.png"}]},
            r"images\[1\] has the same file_name 'a.png' as images\[0\]",
        ),
        ({"images": [{"id": 7, "file_name": "a"}, {"id": 7, "file_name": "b"}]}, r"same id 7 as images\[0\]"),
        ({"annotations": [{"image_id": 77, "category_id": 1, "bbox": [0, 0, 1, 1]}]}, "image_id 77, which is in no"),
        ({"annotations": [{"image_id": [7], "category_id": 1}]}, r"annotations\[0\] names image_id \[7\]"),
        ({"annotations": [{"image_id": 7, "category_id": 5, "bbox": [0, 0, 1, 1]}]}, "category_id 5"),
        ({"annotations": [{"image_id": 7, "category_id": 1, "bbox": [0, 0, 1]}]}, r"the bbox \[0, 0, 1\]"),
        ({"annotations": [{"image_id": 7, "category_id": 1}]}, "the bbox None"),
    ],
)
def test_an_annotation_file_that_contradicts_itself_is_refused_with_the_place(tmp_path, changes, message):
    path = write_coco(tmp_path, **changes)
    with pytest.raises(InputError, match=message) as caught:
        open_source(str(tmp_path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", ['{"images": [', "[]", '{"annotations": []}', "\xff"])
def test_a_file_that_is_no_coco_json_is_refused(tmp_path, content):
    (tmp_path / "annotations.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=r"annotations\.json"):
        open_source(str(tmp_path))


def test_settings_that_contradict_each_other_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no source 'web'"):
        open_source(str(tmp_path), source="web")
    with pytest.raises(ConfigError, match="--source coco"):
        open_source(str(tmp_path), annotations="x.json", source="folder")
