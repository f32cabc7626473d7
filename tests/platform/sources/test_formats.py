"""Every format, in small files with the quirks of the real ones, and what is said about broken ones."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import draw
from source_files import (
    V2_NAMES,
    Hub,
    coco,
    hf_table,
    save_to_disk,
    serving,
    write_csv,
    write_json,
    write_lines,
    write_objects365,
    write_parquet,
    write_tar,
)
from waiting import WAIT_S

from vigc.platform.records import ImageRecord, InputError, ObjectBox
from vigc.platform.schema import MANIFEST
from vigc.platform.sources import open_source

DOG = ObjectBox("dog", [1.0, 2.0, 3.5, 4.0])


def by_id(source):
    assert all(table.schema == MANIFEST for table in source.tables())
    return {record.image_id: record for record in source}


# ---- lists of addresses


def test_a_list_names_images_by_path_and_address(tmp_path):
    lines = ["# mine", "", "a/b.png", "https://host/x.jpg?size=2", " s3://bucket/y.png ", "/abs/z.png"]
    (tmp_path / "urls.txt").write_text("\n".join(lines))
    source = open_source(str(tmp_path / "urls.txt"))
    assert {record.image_id: record.uri for record in source} == {
        "a/b.png": f"{tmp_path}/a/b.png",
        "host/x.jpg?size=2": "https://host/x.jpg?size=2",
        "bucket/y.png": "s3://bucket/y.png",
        "/abs/z.png": "/abs/z.png",
    }
    assert source.place(1) == f"{tmp_path}/urls.txt: line 4"


def test_a_line_that_is_no_address_is_named(tmp_path):
    (tmp_path / "urls.txt").write_text("a.png\nhtp://host/x.jpg\n")
    with pytest.raises(InputError, match=r"urls\.txt: line 2: 'htp://host/x\.jpg' is no address"):
        open_source(str(tmp_path / "urls.txt"))


@pytest.fixture
def web(tmp_path):
    """The files of tmp_path, by http."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    with serving(partial(Handler, directory=str(tmp_path))) as address:
        yield address


def test_a_list_is_read_from_the_web(web, tmp_path):
    (tmp_path / "list.txt").write_text("one.png\nhttp://elsewhere/two.png\n")
    uris = [record.uri for record in open_source(f"{web}/list.txt")]
    assert uris == [f"{web}/one.png", "http://elsewhere/two.png"]
    with pytest.raises(InputError, match=r"gone\.txt: the server answers 404"):
        open_source(f"{web}/gone.txt")
    with pytest.raises(InputError, match="the web cannot be listed"):
        open_source(f"{web}/folder/")


def test_annotations_and_manifests_are_read_from_the_web(web, tmp_path):
    write_json(tmp_path / "a.json", coco([{"id": 7, "file_name": "a.jpg"}]))
    write_lines(tmp_path / "m.jsonl", [{"uri": "in/a.png"}])
    write_csv(tmp_path / "m.csv", [{"uri": "in/a.png"}])
    for name, uri in (("a.json", "a.jpg"), ("m.jsonl", "in/a.png"), ("m.csv", "in/a.png")):
        assert [record.uri for record in open_source(f"{web}/{name}")] == [f"{web}/{uri}"]
    elsewhere = open_source("https://elsewhere/train2017", annotations=f"{web}/a.json")
    assert [record.uri for record in elsewhere] == ["https://elsewhere/train2017/a.jpg"]


def test_a_server_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr("vigc.platform.sources.addresses.NUM_TRIES", 0)
    with pytest.raises(InputError, match=r"http://127\.0\.0\.1:9/list\.txt: no answer"):
        open_source("http://127.0.0.1:9/list.txt")


# ---- COCO


def test_instances_and_captions_of_the_same_images_are_joined(tmp_path):
    box = {"image_id": 42, "category_id": 1, "bbox": [1, 2, 3.5, 4], "segmentation": [[1.5, 2e1], [3]], "iscrowd": 0}
    crowd = box | {"segmentation": {"counts": [1, 2], "size": [4, 4]}, "iscrowd": 1}
    images = [{"id": number, "file_name": f"{number:012}.jpg", "width": 4, "height": 3} for number in (42, 7)]
    instances = write_json(tmp_path / "instances.json", coco(images, [box, crowd]))
    said = [{"image_id": 7, "id": 1, "caption": 'A "segmentation": [1], drawn.'}, {"image_id": 42, "caption": "Dogs."}]
    said += [{"image_id": 7, "caption": "Again."}, {"image_id": 9, "caption": "Only here."}]
    more = [*reversed(images), {"id": 9, "file_name": "new.jpg"}]
    captions = write_json(tmp_path / "captions.json", {"images": more, "annotations": said})
    for given in (f"{instances}, {captions}", [str(instances), str(captions)]):
        source = open_source(str(tmp_path), annotations=given)
        assert list(source) == [
            ImageRecord(
                "000000000042.jpg", f"{tmp_path}/000000000042.jpg", 4, 3,
                [DOG, ObjectBox("dog", [1.0, 2.0, 3.5, 4.0], True)], ["Dogs."],
            ),
            ImageRecord(
                "000000000007.jpg", f"{tmp_path}/000000000007.jpg", 4, 3, [],
                ['A "segmentation": [1], drawn.', "Again."],
            ),
            ImageRecord("new.jpg", f"{tmp_path}/new.jpg", None, None, None, ["Only here."]),
        ]  # fmt: skip
        assert source.place(2) == f"{captions}: images[2]"
        assert by_id(open_source(str(tmp_path), annotations=[str(captions), str(instances)])) == by_id(source)
        assert source.num_images() == 3


def test_files_that_name_an_image_differently_are_refused(tmp_path):
    first = write_json(tmp_path / "a.json", coco([{"id": 7, "file_name": "a.jpg"}]))
    second = write_json(tmp_path / "b.json", coco([{"id": 1, "file_name": "c.jpg"}, {"id": 7, "file_name": "b.jpg"}]))
    with pytest.raises(InputError, match=r"b\.json: images\[1\] has the file_name 'b\.jpg', but .* 'a\.jpg' at .*a\.j"):
        open_source(str(tmp_path), annotations=f"{first},{second}")


def test_ids_may_be_texts_and_huge(tmp_path):
    images = [{"id": "x", "file_name": "x.jpg"}, {"id": 2**70, "file_name": "y.jpg"}]
    boxes = [{"image_id": key, "category_id": "d", "bbox": [1, 2, 3.5, 4]} for key in (2**70, "x", 2**70)]
    path = write_json(tmp_path / "a.json", coco(images, boxes, [{"id": "d", "name": "dog"}]))
    assert [record.objects for record in open_source(str(path))] == [[DOG], [DOG, DOG]]
    path = write_json(tmp_path / "a.json", coco(images, [boxes[0], boxes[0] | {"image_id": "z"}], [{"id": "d"}]))
    with pytest.raises(InputError, match=r"annotations\[1\] names image_id 'z'"):
        open_source(str(path))


def test_many_images_keep_their_own_boxes_whatever_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr("vigc.platform.sources.coco.ROWS_PER_BATCH", 7)
    monkeypatch.setattr("vigc.platform.sources.coco.IMAGES_PER_GROUP", 10)
    monkeypatch.setattr("vigc.platform.sources.external_sort.IMAGES_PER_GROUP", 10)
    monkeypatch.setattr("vigc.platform.sources.json_stream.CHUNK_BYTES", 50)
    images = [{"id": 3 * i, "file_name": f"{i}.jpg"} for i in range(95)]
    outline = {"segmentation": [[n, n + 0.5] for n in range(12)]}
    boxes = [{"image_id": 3 * (i * 31 % 95), "category_id": 1, **outline, "bbox": [i, 0, 1, 1]} for i in range(400)]
    said = [{"image_id": 3 * (i * 17 % 95), "caption": f"ü{i}"} for i in range(60)]
    path = write_json(tmp_path / "a.json", {"version": 10**60} | coco(images, [*said, *boxes]))
    records = list(open_source(str(path)))
    assert [record.image_id for record in records] == [f"{i}.jpg" for i in range(95)]
    for i, record in enumerate(records):
        assert [box.bbox[0] for box in record.objects] == [j for j in range(400) if j * 31 % 95 == i]
        assert (record.captions or []) == [f"ü{j}" for j in range(60) if j * 17 % 95 == i]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": [{"id": 1, "file_name": "a"}, {"id": 2, "fi', r"at images\[1\]: .*complete"),
        ('{"images": [{"id": 1, "file_name": "a"}, {"id": 2, "file_name": "b"}', r"after images\[1\], the text ends"),
        ('{"images": [{"id": 1, "file_name": "a"} {"id": 2}]}', r"after images\[0\], '\{' stands where"),
        ('{"images": [{"id": 1, "file_name": "a"}]} {}', "something follows"),
        ('{"images": [1]}', "'images' is not a list of objects"),
    ],
)
def test_json_that_breaks_off_says_after_which_entry(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=message):
        open_source(str(tmp_path / "a.json"))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None, "3"])
def test_a_box_of_what_is_no_number_is_named(tmp_path, bad):
    boxes = [{"image_id": 1, "category_id": 1, "area": math.nan, "bbox": [1, 2, 3, one]} for one in (4, bad)]
    path = write_json(tmp_path / "a.json", coco([{"id": 1, "file_name": "a.jpg"}], boxes))
    with pytest.raises(InputError, match=r"a\.json: annotations\[1\] has the bbox \[1, 2, 3, .*\] instead of"):
        open_source(str(path))


# ---- Objects365


@pytest.mark.parametrize("layout", ["train/{1}/{2}", "{1}/{2}", "images/{0}/{1}/{2}", "{0}/{1}/{2}"])
def test_objects365_v2_is_found_as_it_was_unpacked(tmp_path, layout):
    path = write_objects365(tmp_path / "annotations")
    expected = [layout.format(*name.split("/")[1:]) for name in V2_NAMES]
    for name in expected:
        draw(tmp_path / "images here" / name, 1)
    source = open_source(str(tmp_path / "images here"), annotations=str(path))
    first, second = source
    assert [first.image_id, second.image_id] == expected
    assert second.uri == f"{tmp_path}/images here/{expected[1]}"
    assert [box.category for one in (first, second) for box in one.objects] == ["Monitor/TV", "Dining Table"]
    assert source.num_skipped == 1
    assert "1 images left out that were never published" in source.describe()
    assert source.place(0) == f"{path}: images[1]"


def test_objects365_without_a_single_file_keeps_the_names_it_has(tmp_path):
    path = write_objects365(tmp_path)
    assert [record.image_id for record in open_source(str(tmp_path), annotations=str(path))] == V2_NAMES


def test_objects365_v1_goes_by_names_in_another_order_and_in_lower_case(tmp_path):
    images = [{"id": 5, "file_name": "obj365_train_000000000005.jpg"}]
    boxes = [{"image_id": 5, "category_id": 2, "bbox": [1, 2, 3.5, 4], "isfake": 0, "isreflected": 0}]
    names = [{"id": 1, "name": "dog"}, {"id": 2, "name": "moniter/tv"}]
    path = write_json(tmp_path / "objects365_train.json", coco(images, boxes, names))
    (record,) = open_source(str(path))
    assert (record.image_id, record.objects[0].category) == ("obj365_train_000000000005.jpg", "monitor/tv")


# ---- manifests

ROWS = [
    {"image_id": "one", "uri": "in/a.png", "width": 4, "height": 3, "captions": ["A dog.", "Two,\nlines."],
     "objects": [{"category": "dog", "bbox": [1, 2, 3.5, 4]}]},
    {"image_id": "two", "uri": "s3://bucket/b.png", "width": None, "height": None, "objects": None, "captions": None},
    {"image_id": "three", "uri": "/abs/c.png", "width": 5, "height": 6, "objects": [], "captions": []},
]  # fmt: skip


def expected_records(folder):
    return [
        ImageRecord("one", f"{folder}/in/a.png", 4, 3, [DOG], ["A dog.", "Two,\nlines."]),
        ImageRecord("two", "s3://bucket/b.png", None, None, None, None),
        ImageRecord("three", "/abs/c.png", 5, 6, [], []),
    ]


@pytest.mark.parametrize(
    ("write", "name"), [(write_csv, "m.csv"), (write_lines, "m.jsonl"), (write_parquet, "m.parquet")]
)
def test_a_manifest_gives_all_it_says_about_an_image(tmp_path, write, name):
    source = open_source(str(write(tmp_path / name, ROWS)))
    assert source.name == "manifest"
    assert list(by_id(source).values()) == expected_records(tmp_path)
    assert name in source.describe()


@pytest.mark.parametrize(
    ("write", "name"), [(write_csv, "m.csv"), (write_lines, "m.jsonl"), (write_parquet, "m.parquet")]
)
def test_without_ids_and_lists_a_manifest_needs_the_uri_only(tmp_path, write, name):
    rows = [{"uri": "a b.png", "captions": "One, only."}, {"uri": "https://host/b.png?x=1", "captions": "Two."}]
    assert [(r.image_id, r.uri, r.captions) for r in open_source(str(write(tmp_path / name, rows)))] == [
        ("a b.png", f"{tmp_path}/a b.png", ["One, only."]),
        ("host/b.png?x=1", "https://host/b.png?x=1", ["Two."]),
    ]


def test_a_folder_of_parquet_files_is_one_manifest(tmp_path):
    for number in range(3):
        rows = [{"image_id": 10 * number + i, "uri": f"{number}-{i}.png", "width": 5} for i in range(4)]
        write_parquet(tmp_path / "m" / f"{number}.parquet", rows)
    source = open_source(str(tmp_path / "m"))
    assert source.name == "manifest"
    assert source.num_images() == 12
    assert list(by_id(source))[:5] == ["0", "1", "2", "3", "10"]
    assert source.place(5) == f"{tmp_path}/m/1.parquet: row 1"
    assert next(iter(source)).uri == f"{tmp_path}/m/0-0.png"


@pytest.mark.parametrize(
    ("changes", "column", "message"),
    [
        ({"uri": None}, "uri", ""),
        ({"width": "wide"}, "width", "'wide'"),
        ({"objects": [{"category": "dog", "bbox": [1, 2]}]}, "objects", r"bbox"),
        ({"objects": [{"bbox": [1, 2, 3, 4]}]}, "objects", "category"),
        ({"objects": [{"category": "dog", "bbox": [1, 2, 3, math.nan]}]}, "objects", "bbox"),
        ({"objects": "dog"}, "objects", ""),
        ({"captions": [3]}, "captions", "3"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_bad_row_of_a_text_manifest_is_named_with_line_and_column(tmp_path, kind, changes, column, message):
    rows = [ROWS[1], ROWS[1] | {"image_id": "x"} | changes]
    path = (write_csv if kind == "csv" else write_lines)(tmp_path / f"m.{kind}", rows)
    line = 3 if kind == "csv" else 2
    with pytest.raises(InputError, match=rf"m\.{kind}: line {line}, column '{column}': .*{message}.*\. Fix the file"):
        list(open_source(str(path)))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"path": "a"}], r"m\.parquet: no column 'uri', only path\."),
        ([{"uri": "a"}, {"uri": None}], "row 1, column 'uri': nothing is there"),
        ([{"uri": "a", "width": "5"}, {"uri": "b", "width": "wide"}], r"row 1, column 'width': 'wide' \(string\)"),
        ([{"uri": "a", "objects": "dog"}], "row 0, column 'objects'"),
        (
            [{"uri": "a", "objects": None}, {"uri": "b", "objects": [{"category": "x", "bbox": [1.0]}]}],
            "row 1, column 'objects': .*bbox",
        ),
        (
            [
                {"uri": "a", "objects": None},
                {"uri": "b", "objects": [{"category": "x", "bbox": [1.0, 2, 3, math.inf]}]},
            ],
            "row 1, column 'objects': .*bbox",
        ),
        ([{"uri": "a", "captions": [1]}, {"uri": "b", "captions": None}], None),
    ],
)
def test_a_bad_parquet_manifest_is_named_with_row_and_column(tmp_path, monkeypatch, rows, message):
    monkeypatch.setattr("vigc.platform.sources.manifest.RECORDS_PER_TABLE", 1)
    path = write_parquet(tmp_path / "m.parquet", rows)
    if message is None:  # numbers become texts without loss
        assert next(iter(open_source(str(path)))).captions == ["1"]
        return
    with pytest.raises(InputError, match=message):
        list(open_source(str(path)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.parquet", b"PAR1 not really", r"m\.parquet: damaged"),
        ("m.csv", b"name,size\na,b\n", r"m\.csv: line 1: no column 'uri', only name, size"),
        ("m.csv", b"uri,width\na,1\nb,c,2\n", r"m\.csv: line 3: 3 fields instead of 2"),
        ("m.csv", b'uri\n"a\n', r"m\.csv: line 2"),
        ("m.csv", b"uri\n\xff\n", r"m\.csv: line \d: .*UTF-8"),
        ("m.jsonl", b'{"uri": "a"}\n{"uri": \n', r"m\.jsonl: line 2: not JSON"),
        ("m.jsonl", b'["a"]\n', r"m\.jsonl: line 1: .* is no JSON object"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused_with_the_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(open_source(str(tmp_path / name)))


# ---- WebDataset


LONG = "deep/" + "n" * 150


def shard(number):
    note = {"caption": "From JSON.", "width": 4, "height": 3, "objects": [{"category": "dog", "bbox": [1, 2, 3.5, 4]}]}
    return {
        f"{number}a.jpg": b"picture " * 100,
        f"{number}a.txt": b"A dog.\n",
        f"{number}a.json": json.dumps(note).encode(),
        f"{LONG}{number}.left.PNG": b"left",
        f"{LONG}{number}.right.png": b"right side",
        f"{LONG}{number}.cls": b"3",
    }


def test_tar_shards_give_the_bytes_of_each_image_and_what_is_said_about_it(tmp_path):
    for number in (0, 1):
        write_tar(tmp_path / "set" / "in" / f"{number:05}.tar", shard(number))
    write_tar(tmp_path / "set" / "top.tar", {"x.webp": b"x"})
    source = open_source(str(tmp_path / "set"))
    found = by_id(source)
    assert source.name == "webdataset"
    assert list(found) == [
        "in/00000.tar/0a.jpg", f"in/00000.tar/{LONG}0.left.PNG", f"in/00000.tar/{LONG}0.right.png",
        "in/00001.tar/1a.jpg", f"in/00001.tar/{LONG}1.left.PNG", f"in/00001.tar/{LONG}1.right.png",
        "top.tar/x.webp",
    ]  # fmt: skip
    first, left = found["in/00001.tar/1a.jpg"], found[f"in/00001.tar/{LONG}1.left.PNG"]
    assert (first.width, first.height, first.objects, first.captions) == (4, 3, [DOG], ["A dog.", "From JSON."])
    assert (left.width, left.captions) == (None, None)
    for record, content in ((first, b"picture " * 100), (left, b"left")):
        file, _, part = record.uri.rpartition("#")
        offset, size = map(int, part.split("+"))
        assert Path(file).read_bytes()[offset : offset + size] == content
    assert source.place(1).startswith(f"in/00000.tar/{LONG}0.left.PNG (bytes ")


def test_shards_may_be_named_in_braces(tmp_path):
    for number in range(9, 12):
        write_tar(tmp_path / f"{number:04}.tar", {f"{number}.png": b"x"})
    source = open_source(f"{tmp_path}/{{0009..0011}}.tar")
    assert list(by_id(source)) == ["0009.tar/9.png", "0010.tar/10.png", "0011.tar/11.png"]
    assert list(by_id(open_source(f"{tmp_path}/00{{10,09}}.tar"))) == ["0010.tar/10.png", "0009.tar/9.png"]
    assert list(by_id(open_source(f"{tmp_path}/0010.tar"))) == ["0010.tar/10.png"]
    with pytest.raises(InputError, match=r"0012\.tar: no such shard; 1 of 3 are missing"):
        open_source(f"{tmp_path}/{{0010..0012}}.tar")


def damaged(data, how):
    if how == "header":
        at = data.index(b"0a.txt")
        return data[:at] + b"\xff" * 20 + data[at + 20 :]
    return {"cut": data[:515], "no end": data[:1024], "none": b"not a tar at all " * 40, "empty": b""}[how]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut", "at byte 0: cut short within '0a.jpg'"),
        ("no end", "at byte 1024: cut short, the end mark is missing"),
        ("header", "at byte 1024: .*header"),
        ("none", "at byte 0: no tar archive"),
        ("empty", "at byte 0: no tar archive"),
    ],
)
def test_a_broken_tar_is_named_with_the_offset(tmp_path, how, message):
    whole = write_tar(tmp_path / "a.tar", {"0a.jpg": b"picture", "0a.txt": b"A dog."}).read_bytes()
    (tmp_path / "a.tar").write_bytes(damaged(whole, how))
    with pytest.raises(InputError, match=rf"a\.tar: {message}"):
        list(open_source(str(tmp_path / "a.tar")))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"{", r"a\.tar: a\.json \(at byte 1024\): "),
        ("a.json", b"[]", "it is no JSON object"),
        ("a.json", b'{"objects": [{"category": "x", "bbox": 3}]}', r"object 0 has the bbox 3 instead"),
        ("a.json", b'{"width": "x"}', "'x' is not a whole number"),
        ("a.txt", b"\xff", "utf-8"),
    ],
)
def test_a_bad_note_in_a_tar_is_named_with_tar_and_member(tmp_path, name, content, message):
    write_tar(tmp_path / "a.tar", {"a.png": b"x", name: content})
    with pytest.raises(InputError, match=message):
        list(open_source(str(tmp_path / "a.tar")))


# ---- Hugging Face


def test_a_folder_of_save_to_disk_is_read_with_its_captions(tmp_path):
    folder = save_to_disk(tmp_path / "set", [hf_table(["a.png", "b.png", "c.png"]), hf_table(["d.png"])])
    source = open_source(str(folder))
    records = list(by_id(source).values())
    assert source.name == "huggingface"
    assert [record.image_id for record in records] == ["a.png", "b.png", "c.png", "d.png"]
    assert records[2].uri == f"{folder}/data-00000-of-00002.arrow#row=2&column=picture"
    assert records[3].uri == f"{folder}/data-00001-of-00002.arrow#row=0&column=picture"
    assert records[0].captions == ["A dog."]
    assert source.place(3) == f"{folder}/data-00001-of-00002.arrow: row 0"
    assert "'picture'" in source.describe()


@pytest.mark.parametrize("paths", [["a.png", None], ["a.png", "b.png"], ["c.png", ""]])
def test_without_different_paths_the_rows_are_numbered(tmp_path, paths):
    folder = save_to_disk(tmp_path / "set", [hf_table(paths), hf_table(["a.png"])])
    assert list(by_id(open_source(str(folder)))) == [
        "data-00000-of-00002.arrow/0", "data-00000-of-00002.arrow/1", "data-00001-of-00002.arrow/0",
    ]  # fmt: skip


def test_a_folder_of_splits_asks_for_one(tmp_path):
    save_to_disk(tmp_path / "set" / "train", [hf_table(["a.png"])])
    write_json(tmp_path / "set" / "dataset_dict.json", {"splits": ["train", "test"]})
    with pytest.raises(InputError, match=r"splits train, test\. Name one, such as .*/set/train"):
        open_source(str(tmp_path / "set"))
    assert list(by_id(open_source(str(tmp_path / "set" / "train")))) == ["a.png"]


def test_a_repository_of_parquet_files_is_read(tmp_path):
    (tmp_path / "README.md").write_text("# A data set")
    (tmp_path / "data").mkdir()
    texts = [["One.", "Two."], None]
    pq.write_table(hf_table(["a.png", "b.png"], texts), tmp_path / "data" / "train-00000-of-00001.parquet")
    source = open_source(str(tmp_path))
    first, second = by_id(source).values()
    assert (source.name, source.num_images()) == ("huggingface", 2)
    assert first.uri == f"{tmp_path}/data/train-00000-of-00001.parquet#row=0&column=picture"
    assert (first.captions, second.captions) == (["One.", "Two."], None)


READ_HUB = """
import hashlib, sys
from vigc.platform.images.fetch import fetch
from vigc.platform.images.refused import Refused
from vigc.platform.sources import open_source
for record in open_source(sys.argv[1], source="huggingface"):
    print(record.image_id, record.uri, hashlib.sha256(fetch(record.uri)).hexdigest())
for part in ("x.parquet#row=9&column=picture", "x.parquet#row=0&column=sound", "y.parquet#row=0&column=picture"):
    try:
        fetch(f"hf://datasets/a/b/data/{part}")
    except Refused as refused:
        print(refused)
"""


def test_a_data_set_on_the_hub_is_read_by_its_name_and_its_pictures_are_those_that_went_in(tmp_path):
    pictures = [draw(tmp_path / f"{seed}.png", seed).read_bytes() for seed in range(3)]
    table = hf_table(["a.png", "b.png", "c.png"], data=pictures)
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=2)
    handler = type("OneDataSet", (Hub,), {"data": (tmp_path / "x.parquet").read_bytes()})
    with serving(handler) as address:  # the client reads the address when it is imported, so in a process of its own
        env = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home")}
        found, gone = (
            subprocess.run([sys.executable, "-c", READ_HUB, name], env=env, capture_output=True, text=True, check=False)
            for name in ("a/b", "hf://datasets/a/gone")
        )
    place = "hf://datasets/a/b/data/x.parquet"
    rows = [
        f"{name}.png {place}#row={row}&column=picture {sha256(pictures[row]).hexdigest()}"
        for row, name in enumerate("abc")
    ]
    said = found.stdout.splitlines()
    assert said[:3] == rows, found.stderr
    assert said[3:] == [
        f"missing: {place}: there is no row 9; it has 3",
        f"missing: {place}: there is no column 'sound'; it has label, picture, text",
        "missing: no file at hf://datasets/a/b/data/y.parquet",
    ]
    assert "InputError: hf://datasets/a/gone: the hub gives nothing" in gone.stderr


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "data-00000-of-00001.arrow").unlink(), r"data-00000-of-00001\.arrow: named in state\.json"),
        (lambda f: (f / "state.json").write_text("{"), r"state\.json: not JSON"),
        (lambda f: (f / "state.json").write_text("{}"), r"state\.json: names no data file"),
        (lambda f: (f / "data-00000-of-00001.arrow").write_bytes(b"xxxxxxxxxxxx"), r"of-00001\.arrow: damaged"),
    ],
)
def test_a_broken_folder_of_save_to_disk_is_named(tmp_path, break_it, message):
    folder = save_to_disk(tmp_path / "set", [hf_table(["a.png"])])
    break_it(folder)
    with pytest.raises(InputError, match=message):
        list(open_source(str(folder)))


def test_a_data_set_without_images_is_refused(tmp_path):
    folder = save_to_disk(tmp_path / "set", [pa.table({"text": ["x"]})])
    with pytest.raises(InputError, match="no column of images among text"):
        open_source(str(folder))


# ---- choosing


def test_a_source_that_is_named_is_not_guessed(tmp_path):
    write_parquet(tmp_path / "m" / "a.parquet", [{"uri": "x.png"}])
    draw(tmp_path / "m" / "b.png", 1)
    assert open_source(str(tmp_path / "m")).name == "folder"
    assert open_source(str(tmp_path / "m"), source="manifest").name == "manifest"
    with pytest.raises(InputError, match=r"no \.tar file"):
        open_source(str(tmp_path / "m"), source="webdataset")


@pytest.mark.parametrize("name", ["gone.parquet", "gone.csv", "gone.tar", "gone.txt", "gone.json", "gone/"])
def test_a_place_that_is_not_there_is_named(tmp_path, name):
    with pytest.raises(InputError, match="gone.*no such file or folder"):
        open_source(str(tmp_path / name))


# ---- size


MEMORY = """
import resource, sys
from vigc.platform.sources import open_source
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
first = open_source(sys.argv[1]); list(first.tables())
before = peak()
source = open_source(sys.argv[2])
print(source.num_images(), sum(t["objects"].combine_chunks().flatten().__len__() for t in source.tables()))
print(peak() - before)
"""


@pytest.mark.slow
def test_three_hundred_thousand_boxes_need_no_more_memory_than_a_few_columns(tmp_path):
    """Held as Python objects they would take some 350 MB."""
    small, large = tmp_path / "small.json", tmp_path / "large.json"
    for path, num in ((small, 100), (large, 300_000)):
        with open(path, "w") as file:
            file.write('{"annotations": [')
            for i in range(num):
                corner = i * 0.123456789
                file.write(
                    f'{", " if i else ""}{{"id": {i}, "image_id": {i * 7919 % 20_000}, "category_id": 1, "iscrowd": 0, '
                    f'"segmentation": [[{corner}, {corner}, 1.5, 2.5, {corner}, 7]], "area": {corner}, '
                    f'"bbox": [{corner}, {corner + 1}, 3.25, 4.125]}}'
                )
            images = [{"id": i, "file_name": f"{i:012}.jpg", "width": 640, "height": 480} for i in range(20_000)]
            file.write(f'], "images": {json.dumps(images)}, "categories": [{{"id": 1, "name": "dog"}}]}}')
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, small, large], capture_output=True, text=True, check=False, timeout=WAIT_S
    )
    assert done.returncode == 0, done.stderr
    counts, growth_mb = done.stdout.splitlines()
    assert counts == "20000 300000"
    assert float(growth_mb) < 120
