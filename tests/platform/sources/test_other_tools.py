"""Files as other people's tools write them: the same records, or one clear error; nothing is lost without a word."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vigc.platform.images.fetch import fetch
from vigc.platform.images.refused import Refused
from vigc.platform.records import ImageRecord, InputError
from vigc.platform.sources import open_source


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (60, 40), "red").save(file, "JPEG")
    return file.getvalue()


def coco(folder: Path, names: list[str], **more: Any) -> str:
    images = [{"id": number, "file_name": name, "width": 60, "height": 40} for number, name in enumerate(names)]
    boxes = [
        {"id": 10 + number, "image_id": number, "category_id": 1, "bbox": [1, 2, 10, 12], "iscrowd": 0}
        for number in range(len(names))
    ]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}], **more}
    (folder / "result.json").write_text(json.dumps(content))
    return str(folder / "result.json")


def tar(path: Path, *members: tuple[str, bytes | str]) -> str:
    """Members with bytes are files, with a text links: `=name` a hard one, `name` a symbolic one."""
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            if isinstance(data, str):
                member.type = tarfile.LNKTYPE if data.startswith("=") else tarfile.SYMTYPE
                member.linkname = data.removeprefix("=")
                archive.addfile(member)
            else:
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return str(path)


def records(place: str) -> list[ImageRecord]:
    return list(open_source(place))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in "ab":
        (tmp_path / "images" / f"{name}.jpg").write_bytes(jpeg())
    return tmp_path


@pytest.mark.parametrize(
    "written",
    [
        "{}.jpg",
        "images/{}.jpg",
        "images\\{}.jpg",
        "./images/{}.jpg",
        "C:\\Users\\ann\\{}.jpg",
        "/home/ann/photos/{}.jpg",
    ],
)
def test_a_path_is_found_however_an_annotation_tool_wrote_it(pictures: Path, written: str) -> None:
    found = records(coco(pictures, [written.format(name) for name in "ab"]))
    assert [one.uri for one in found] == [str(pictures / "images" / f"{name}.jpg") for name in "ab"]
    assert [one.image_id for one in found] == ["a.jpg", "b.jpg"]


def test_a_complete_path_that_leads_to_a_file_stays_as_it_is(pictures: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.jpg").write_bytes(jpeg())
    (one,) = records(coco(pictures, [str(elsewhere / "a.jpg")]))
    assert one.uri == str(elsewhere / "a.jpg")
    assert one.image_id == str(elsewhere / "a.jpg").lstrip("/")


def test_where_no_way_leads_to_a_file_the_path_is_as_it_was_written(pictures: Path) -> None:
    assert [one.image_id for one in records(coco(pictures, ["there/c.jpg", "there/d.jpg"]))] == [
        "there/c.jpg",
        "there/d.jpg",
    ]


def test_names_that_would_become_the_same_stay_apart(pictures: Path) -> None:
    found = records(coco(pictures, ["one/a.jpg", "two/a.jpg"]))
    assert [one.image_id for one in found] == ["one/a.jpg", "two/a.jpg"]


def test_lvis_gives_addresses_in_the_place_of_names(pictures: Path) -> None:
    images = [{"id": 0, "coco_url": "http://images.cocodataset.org/images/a.jpg"}]
    (one,) = records(coco(pictures, ["a.jpg"], images=images))
    assert one.uri == str(pictures / "images/a.jpg")


def test_whole_numbers_may_be_written_with_a_point(pictures: Path) -> None:
    images = [{"id": 0.0, "file_name": "a.jpg", "width": 60.0, "height": "40"}]
    (one,) = records(coco(pictures, ["a.jpg"], images=images))
    assert (one.width, one.height, len(one.objects or ())) == (60, 40, 1)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"categories": [{"id": 1, "name": "cat"}, {"id": 1, "name": "horse"}]},
            r"categories\[1\] has the same id 1 as categories\[0\]",
        ),
        (
            {"annotations": [{"image_id": 0, "category_id": 1, "bbox": [float("nan"), 2, 3, 4]}]},
            r"annotations\[0\] has the bbox \[nan",
        ),
        ({"annotations": [{"image_id": 0, "caption": None}]}, "neither a caption nor a category_id"),
        ({"annotations": [{"image_id": 0, "segments_info": [], "file_name": "a.png"}]}, "panoptic"),
        ({"images": [{"id": 0, "file_name": "a.jpg", "width": 60.5}]}, "60.5 is not a whole number"),
    ],
)
def test_what_contradicts_itself_is_refused_with_its_place(pictures: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        records(coco(pictures, ["a.jpg"], **more))


def test_a_shard_whose_samples_are_mixed_is_refused_and_not_read_in_part(tmp_path: Path) -> None:
    notes = (("0.json", b'{"caption": "x"}'), ("1.json", b'{"caption": "y"}'))
    with pytest.raises(InputError, match=r"at byte 3072: the key '0' comes again.*tar --sort=name"):
        records(tar(tmp_path / "u.tar", ("0.jpg", jpeg()), ("1.jpg", jpeg()), *notes))


def test_notes_in_capital_letters_are_read(tmp_path: Path) -> None:
    place = tar(
        tmp_path / "u.tar", ("0.JPG", jpeg()), ("0.TXT", b"x"), ("1.JPEG", jpeg()), ("1.JSON", b'{"caption": "y"}')
    )
    assert [one.captions for one in records(place)] == [["x"], ["y"]]


def test_links_in_a_shard_have_the_data_of_what_they_lead_to(tmp_path: Path) -> None:
    place = tar(
        tmp_path / "l.tar",
        ("f/0.jpg", jpeg()),
        ("f/1.jpg", "=f/0.jpg"),
        ("f/2.jpg", "0.jpg"),
        ("g/3.jpg", "../f/0.jpg"),
    )
    found = records(place)
    assert [one.image_id.rpartition("/")[2] for one in found] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert len({one.uri for one in found}) == 1
    with pytest.raises(InputError, match=r"'0.jpg' is a link to 'elsewhere.jpg', which does not stand before it"):
        records(tar(tmp_path / "m.tar", ("0.jpg", "elsewhere.jpg")))


def test_a_compressed_shard_is_named_as_such(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "z.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("0.jpg"))
    with pytest.raises(InputError, match="compressed with gzip"):
        records(str(tmp_path / "z.tar"))


@pytest.mark.parametrize("caption", ["[Hot Item] A cup", '["quoted" in brackets', "[]"])
def test_a_caption_may_begin_with_a_bracket(tmp_path: Path, caption: str) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    lines = tmp_path / "list.jsonl"
    lines.write_text(json.dumps({"uri": "a.jpg", "captions": caption}) + "\n")
    assert records(str(lines))[0].captions == [caption]
    place = tar(tmp_path / "b.tar", ("0.jpg", jpeg()), ("0.json", json.dumps({"caption": caption}).encode()))
    assert records(place)[0].captions == [caption]


def test_in_a_table_of_texts_a_list_is_json_and_anything_else_a_caption(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    table = tmp_path / "list.csv"
    table.write_text('uri,captions\na.jpg,"[""x"", ""y""]"\na.jpg,[Hot Item] A cup\n')
    assert [one.captions for one in records(str(table))] == [["x", "y"], ["[Hot Item] A cup"]]


def test_every_file_that_is_named_like_an_image_is_listed(tmp_path: Path) -> None:
    names = ["a.jfif", "b.jpe", "c.avif", "d.HEIC", "e.jxl"]
    for name in names:
        (tmp_path / name).write_bytes(jpeg())
    (tmp_path / "notes.txt").write_text("no image")
    assert [one.image_id for one in records(str(tmp_path))] == names


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def parquet(path: Path, column: str, values: list[Any], kind: pa.DataType) -> str:
    pq.write_table(pa.table({column: pa.array(values, kind), "text": ["a"] * len(values)}), path)
    return str(path)


def test_lists_of_one_image_are_read_and_others_say_how_many_they_are(tmp_path: Path) -> None:
    one = {"bytes": jpeg(), "path": None}
    place = parquet(tmp_path / "list.parquet", "images", [[one], [one, one], []], pa.list_(IMAGE))
    found = records(place)
    assert [record.uri for record in found] == [f"{place}#row={row}&column=images" for row in range(3)]
    assert bytes(fetch(found[0].uri)) == jpeg()
    for record, num in zip(found[1:], (2, 0), strict=True):
        with pytest.raises(Refused, match=f"holds {num} images; a row is made of one"):
            fetch(record.uri)


def test_plain_bytes_under_an_image_s_name_are_read(tmp_path: Path) -> None:
    (found,) = records(parquet(tmp_path / "bytes.parquet", "image", [jpeg()], pa.binary()))
    assert bytes(fetch(found.uri)) == jpeg()
    assert found.captions == ["a"]


def test_paths_in_the_place_of_bytes_are_followed(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    values = [{"bytes": None, "path": str(tmp_path / "a.jpg")}, {"bytes": None, "path": "a.jpg"}]
    found = records(parquet(tmp_path / "paths.parquet", "image", values, IMAGE))
    assert [record.uri for record in found] == [str(tmp_path / "a.jpg")] * 2
