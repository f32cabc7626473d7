"""Every form that images come in, through the command line to a data set that verifies."""

from __future__ import annotations

import re
import shutil
from hashlib import sha256

import pyarrow.parquet as pq
import pytest
from datasets import draw
from fake_workers import ToldWorker
from source_files import (
    GHOST,
    V2_NAMES,
    coco,
    hf_table,
    save_to_disk,
    write_csv,
    write_json,
    write_lines,
    write_objects365,
    write_parquet,
    write_tar,
)

from vigc.model.weights.identity import identify
from vigc.platform.dataset.store import Store
from vigc.platform.dataset.verify import verify
from vigc.platform.images.decode import decode

NUM = 3


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Of different sizes and with different first pixels."""
    folder = tmp_path_factory.mktemp("pictures")
    return [draw(folder / f"{seed}.{('png', 'jpg')[seed % 2]}", seed, (40 + seed, 30)) for seed in range(NUM)]


def copied(folder, pictures, names):
    for path, name in zip(pictures, names, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / name)
    return list(names)


# Each writes the pictures in its form, and gives what the command is told and the ids in the pictures' order.


def coco_files(folder, pictures):
    names = copied(
        folder / "train2017", pictures, [f"{number:012}{path.suffix}" for number, path in enumerate(pictures)]
    )
    images = [{"id": number, "file_name": name, "width": 40, "height": 30} for number, name in enumerate(names)]
    box = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3.5, 4], "iscrowd": 0}
    boxes = write_json(folder / "instances.json", coco(images, [box]))
    said = write_json(folder / "captions.json", coco(images, [{"image_id": 0, "caption": "A dog."}]))
    return [folder / "train2017", "--annotations", f"{boxes},{said}"], names


def objects365_v1(folder, pictures):
    names = copied(folder / "train", pictures, [f"obj365_train_{n:012}.jpg" for n in range(len(pictures))])
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    boxes = [{"image_id": 2, "category_id": 2, "bbox": [1, 2, 3.5, 4], "isfake": 0, "isreflected": 0}]
    path = write_json(folder / "objects365_train.json", coco(images, boxes, [{"id": 2, "name": "moniter/tv"}]))
    return [folder / "train", "--annotations", path], names


def objects365_v2(folder, pictures):
    path = write_objects365(folder)
    assert GHOST not in V2_NAMES
    names = copied(folder / "train", pictures[:2], [name.removeprefix("images/") for name in V2_NAMES])
    return [folder / "train", "--annotations", path], names


def webdataset(folder, pictures):
    first, *others = [(f"{number}{path.suffix}", path.read_bytes()) for number, path in enumerate(pictures)]
    write_tar(folder / "00000.tar", {first[0]: first[1], "0.txt": b"A dog.\n"})
    write_tar(folder / "00001.tar", {"deep/note.txt": b"", **dict(others)})
    return [f"{folder}/{{00000..00001}}.tar"], [f"00000.tar/{first[0]}", *(f"00001.tar/{name}" for name, _ in others)]


def huggingface_folder(folder, pictures):
    tables = [hf_table(["a.png", "b.png"], data=[path.read_bytes() for path in pictures[:2]])]
    tables.append(hf_table(["c.png"], data=[pictures[2].read_bytes()]))
    return [save_to_disk(folder / "set", tables)], ["a.png", "b.png", "c.png"]


def huggingface_repository(folder, pictures):
    (folder / "data").mkdir(parents=True)
    table = hf_table([None] * len(pictures), data=[path.read_bytes() for path in pictures])
    pq.write_table(table, folder / "data" / "train-00000-of-00001.parquet", row_group_size=2)
    return [folder], [f"data/train-00000-of-00001.parquet/{row}" for row in range(len(pictures))]


def manifest(write, name):
    def write_manifest(folder, pictures):
        names = copied(folder / "in", pictures, [path.name for path in pictures])
        rows = [{"image_id": f"no {n}", "uri": f"in/{name}", "captions": ["One."]} for n, name in enumerate(names)]
        return [write(folder / name, rows)], [row["image_id"] for row in rows]

    return write_manifest


def address_list(folder, pictures):
    names = copied(folder, pictures, [f"in/{path.name}" for path in pictures])
    (folder / "list.txt").write_text("\n".join(["# mine", *names[:2], f"file://{folder}/{names[2]}"]))
    return [folder / "list.txt"], [*names[:2], f"{folder}/{names[2]}"]


FORMS = {
    "coco": (coco_files, "coco"),
    "objects365 v1": (objects365_v1, "coco"),
    "objects365 v2": (objects365_v2, "coco"),
    "webdataset": (webdataset, "webdataset"),
    "huggingface folder": (huggingface_folder, "huggingface"),
    "huggingface repository": (huggingface_repository, "huggingface"),
    "parquet": (manifest(write_parquet, "m.parquet"), "manifest"),
    "csv": (manifest(write_csv, "m.csv"), "manifest"),
    "jsonl": (manifest(write_lines, "m.jsonl"), "manifest"),
    "address list": (address_list, "folder, the addresses in"),
}


def check(out, ids, pictures):
    """Every picture is there, and was seen as it went in."""
    assert verify(out).problems == []
    rows = {row["image_id"]: row for row in Store(out).rows()}
    assert sorted(rows) == sorted(ids)
    for image_id, path in zip(ids, pictures, strict=False):
        row = rows[image_id]
        assert (row["status"], row["error"]) == ("ok", None)
        assert row["sha256"] == sha256(path.read_bytes()).hexdigest()
        assert (row["width"], row["height"]) == (40 + pictures.index(path), 30)
    return rows


SLOW = {"objects365 v1", "objects365 v2", "huggingface repository", "csv", "jsonl", "address list"}  # like another one


@pytest.mark.parametrize("form", [pytest.param(one, marks=pytest.mark.slow) if one in SLOW else one for one in FORMS])
def test_each_form_generates_and_its_pictures_are_those_that_went_in(
    vigc_here, shared_ray, monkeypatch, pictures, tmp_path, form
):
    monkeypatch.setattr("vigc.jobs.generate.run.Worker", ToldWorker)
    write, name = FORMS[form]
    location, ids = write(tmp_path / "source", pictures)

    result = vigc_here("generate", *location, "--out", tmp_path / "data", "--kinds", "conversation,detail")

    assert result.code == 0, result.err
    assert result.out.startswith(f"images    {name} ")
    assert f": {len(ids)} images" in " ".join(result.out.split())
    rows = check(tmp_path / "data", ids, pictures)
    size = identify(None).image_size
    for image_id, path in zip(ids, pictures, strict=False):
        first = "-".join(map(str, decode(str(path), size).pixels[:3]))
        assert rows[image_id]["conversations"][0]["answer"] == f"The first pixel is {first}."
    again = vigc_here("verify", tmp_path / "data", "--images", "--json").json()
    assert (again["ok"], again["images"]["num_checked"]) == (True, len(ids))


@pytest.mark.slow
def test_what_is_selected_is_said_and_no_more_is_made(vigc_here, shared_ray, monkeypatch, pictures, tmp_path):
    monkeypatch.setattr("vigc.jobs.generate.run.Worker", ToldWorker)
    names = copied(tmp_path / "photos", [*pictures, pictures[0], pictures[1]], [f"{n}.png" for n in range(5)])
    draw(tmp_path / "photos" / "large.png", 9, (100, 100))
    (tmp_path / "used.txt").write_text("1\n")
    command = ("generate", tmp_path / "photos", "--out", tmp_path / "data", "--kinds", "conversation,detail")
    selected = ("--exclude", tmp_path / "used.txt", "--max-pixels", 5000, "--actors", "1:2", "--shard", "2/2")

    result = vigc_here(*command, *selected)

    assert result.code == 0, result.err
    said = result.out.splitlines()
    assert said[0] == (f"images    folder {tmp_path}/photos; without those of {tmp_path}/used.txt; shard 2/2: 3 images")
    assert said[2].endswith("1 to 2 actors")
    rows = {row["image_id"]: row["error"] and row["error"]["kind"] for row in Store(tmp_path / "data").rows()}
    assert rows == {names[3]: None, names[4]: None, "large.png": "too_large"}
    assert verify(tmp_path / "data").problems == []

    # A retry keeps to the images that it is about, and its own flags win.
    again = vigc_here("generate", "--retry-failed", tmp_path / "data", "--max-pixels", 20_000)
    assert again.code == 0, again.err
    assert "failed images of pass 001: 1 image" in again.out
    assert verify(tmp_path / "data").num_failed == 1
    assert [row["image_id"] for row in Store(tmp_path / "data").rows() if row["status"] == "failed"] == []
    assert "summary" in vigc_here("generate", "--retry-failed", tmp_path / "data", "--json").json()


@pytest.mark.slow
def test_the_real_command_reads_pictures_out_of_a_table(vigc_joined, scenes_dir, tmp_path):
    scenes = sorted((scenes_dir / "images").glob("*.jpg"))[:NUM]
    location, ids = huggingface_repository(tmp_path / "source", scenes)

    settings = ("--kinds", "detail", "--set", "max_steps=1")
    result = vigc_joined("generate", *location, "--out", tmp_path / "data", *settings)

    assert result.code == 0, result.err
    rows = {row["image_id"]: row for row in Store(tmp_path / "data").rows()}
    assert verify(tmp_path / "data").problems == []
    assert {name: row["sha256"] for name, row in rows.items()} == {
        name: sha256(path.read_bytes()).hexdigest() for name, path in zip(ids, scenes, strict=True)
    }


def cut(path, at):
    path.write_bytes(path.read_bytes()[:at])


def append(path, text):
    with open(path, "a") as file:
        file.write(text)


def orphan(folder):
    box = {"image_id": 9, "category_id": 1, "bbox": [0, 0, 1, 1]}
    write_json(folder / "instances.json", coco([{"id": 1, "file_name": "a.jpg"}], [box]))


def no_name(folder):
    write_json(folder / "objects365_train.json", coco([{"id": 1, "file_name": "a.jpg"}, {"id": 2}]))


@pytest.mark.parametrize(
    ("form", "damage", "message"),
    [
        ("coco", orphan, r"instances\.json: annotations\[0\] names image_id 9.* Fix the file"),
        ("objects365 v1", no_name, r"objects365_train\.json: images\[1\] .*file_name.*\. \w+"),
        ("objects365 v2", lambda f: cut(f / "zhiyuan_objv2_train.json", 300), r"objv2_train\.json: .*\[\d\].*\. \w+"),
        ("webdataset", lambda f: cut(f / "00001.tar", 2000), r"00001\.tar: at byte 2048: .*damaged.*\. Fetch or"),
        ("webdataset", lambda f: (f / "00001.tar").unlink(), r"00001\.tar: no such shard; 1 of 2.*\. Check the braces"),
        (
            "huggingface folder",
            lambda f: (f / "set" / "data-00001-of-00002.arrow").unlink(),
            r"data-00001-of-00002\.arrow: named in state\.json, but not there\. Copy it",
        ),
        (
            "huggingface repository",
            lambda f: cut(f / "data" / "train-00000-of-00001.parquet", 300),
            r"train-00000-of-00001\.parquet: damaged.*\. Replace the file",
        ),
        (
            "parquet",
            lambda f: write_parquet(f / "m.parquet", [{"uri": "a", "width": "5"}, {"uri": "b", "width": "wide"}]),
            r"m\.parquet: row 1, column 'width': 'wide'.*\. Fix the file",
        ),
        ("csv", lambda f: append(f / "m.csv", "x\n"), r"m\.csv: line 5: 1 fields instead of 3.*\. \w+"),
        ("jsonl", lambda f: append(f / "m.jsonl", '{"uri": \n'), r"m\.jsonl: line 5: not JSON.*\. Fix the line"),
        ("address list", lambda f: append(f / "list.txt", "\nhtp://a/b.jpg\n"), r"list\.txt: line 5: 'htp://.*\. \w+"),
    ],
)
def test_a_malformed_one_is_refused_with_file_entry_and_remedy(vigc_here, pictures, tmp_path, form, damage, message):
    location, _ = FORMS[form][0](tmp_path / "source", pictures)
    damage(tmp_path / "source")

    result = vigc_here("generate", *location, "--out", tmp_path / "data")

    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert re.search(message, result.err), result.err
    assert not (tmp_path / "data").exists()
