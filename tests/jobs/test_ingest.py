"""`vigc ingest`: any source as a manifest, whole or not at all."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import draw
from waiting import wait_until

from vigc.jobs.ingest import run as module
from vigc.platform.records import InputError
from vigc.platform.schema import MANIFEST
from vigc.platform.sources import open_source


def photos(folder, num=12):
    for number in range(num):
        draw(folder / f"{number:03}.png", number)
    return folder


def write_coco(folder, num=30):
    photos(folder / "images", num)
    images = [{"id": n, "file_name": f"{n:03}.png", "width": 40, "height": 30} for n in range(num)]
    boxes = [{"image_id": n % num, "category_id": 1, "bbox": [n, 0, 1, 1]} for n in range(3 * num)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "dog"}]}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def test_a_manifest_holds_what_the_source_gives(vigc_here, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "IMAGES_PER_FILE", 8)
    coco = write_coco(tmp_path / "coco")

    result = vigc_here("ingest", coco, "--out", tmp_path / "m")

    assert result.code == 0, result.err
    assert list(open_source(str(tmp_path / "m"))) == list(open_source(str(coco)))
    files = sorted((tmp_path / "m").glob("*.parquet"))
    assert [pq.read_metadata(file).num_rows for file in files] == [8, 8, 8, 6]
    assert all(pq.read_schema(file).equals(MANIFEST) for file in files)
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [*(f.name for f in files), "manifest.json"]
    assert f"images    coco {coco}/annotations.json" in result.out
    assert result.out.endswith(f"try  vigc generate {tmp_path}/m --out data\n")


def test_a_finished_manifest_is_not_made_again(vigc_here, tmp_path):
    photos(tmp_path / "p")
    vigc_here("ingest", tmp_path / "p", "--out", tmp_path / "m")
    before = (tmp_path / "m" / "00000.parquet").stat().st_mtime_ns

    again = vigc_here("ingest", tmp_path / "p", "--out", tmp_path / "m")

    assert (again.code, again.err) == (0, "")
    assert "already holds this manifest of 12 images" in again.out
    assert (tmp_path / "m" / "00000.parquet").stat().st_mtime_ns == before


def test_another_manifest_is_replaced_only_when_asked_to(vigc_here, tmp_path):
    photos(tmp_path / "p")
    vigc_here("ingest", tmp_path / "p", "--out", tmp_path / "m")

    refused = vigc_here("ingest", tmp_path / "p", "--out", tmp_path / "m", "--limit", 3)
    done = vigc_here("ingest", tmp_path / "p", "--out", tmp_path / "m", "--limit", 3, "--overwrite", "--json").json()

    assert refused.code == 2
    assert "holds another manifest: limit: None -> 3" in refused.err
    assert (done["num_images"], done["written"]) == (3, True)
    assert open_source(str(tmp_path / "m")).num_images() == 3


def test_a_folder_of_something_else_is_never_replaced(vigc_here, tmp_path):
    photos(tmp_path / "p")
    photos(tmp_path / "mine", 1)

    result = vigc_here("ingest", tmp_path / "p", "--out", tmp_path / "mine", "--overwrite")
    onto_itself = vigc_here("ingest", tmp_path / "p", "--out", tmp_path, "--overwrite")

    assert (result.code, onto_itself.code) == (2, 2)
    assert "holds no manifest of `vigc ingest`" in result.err
    assert "where the images are read from" in onto_itself.err
    assert (tmp_path / "mine" / "000.png").exists()


@pytest.mark.parametrize("breaks_at", [4, 20])
def test_bad_input_leaves_nothing(vigc_here, tmp_path, monkeypatch, breaks_at):
    monkeypatch.setattr(module, "IMAGES_PER_FILE", 3)
    monkeypatch.setattr("vigc.platform.sources.base.RECORDS_PER_TABLE", 2)
    lines = [json.dumps({"uri": f"{n}.png"}) for n in range(30)]
    lines[breaks_at] = "{"
    (tmp_path / "in.jsonl").write_text("\n".join(lines))

    result = vigc_here("ingest", tmp_path / "in.jsonl", "--out", tmp_path / "m")

    assert result.code == 2
    assert f"line {breaks_at + 1}: not JSON" in result.err
    assert not (tmp_path / "m").exists()


def test_what_a_killed_run_left_is_no_manifest_and_in_nobody_s_way(vigc_here, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "IMAGES_PER_FILE", 3)
    photos(tmp_path / "p")
    vigc_here("ingest", tmp_path / "p", "--out", tmp_path / "m")
    whole = list(open_source(str(tmp_path / "m")))
    (tmp_path / "m" / "00003.parquet").unlink()
    (tmp_path / "m" / "manifest.json").rename(tmp_path / "m" / "_unfinished.json")

    with pytest.raises(InputError, match="has not finished this manifest"):
        open_source(str(tmp_path / "m"))
    again = vigc_here("ingest", tmp_path / "p", "--out", tmp_path / "m", "--json").json()

    assert again["written"] is True
    assert list(open_source(str(tmp_path / "m"))) == whole


@pytest.mark.slow
def test_a_run_that_is_killed_half_way_is_made_up_for_by_the_next(vigc_started, vigc_here, tmp_path):
    num = 350_000
    with open(tmp_path / "in.jsonl", "w") as file:
        file.writelines(f'{{"uri": "{number}.png"}}\n' for number in range(num))
    running = vigc_started("ingest", tmp_path / "in.jsonl", "--out", tmp_path / "m")
    wait_until((tmp_path / "m" / "00000.parquet").exists, process=running)
    running.kill()
    running.communicate()
    left = {path.name for path in (tmp_path / "m").iterdir()}

    with pytest.raises(InputError, match="has not finished this manifest"):
        open_source(str(tmp_path / "m"))
    again = vigc_here("ingest", tmp_path / "in.jsonl", "--out", tmp_path / "m")

    assert {"_unfinished.json", "00000.parquet"} <= left
    assert again.code == 0
    assert sum(len(table) for table in open_source(str(tmp_path / "m")).tables()) == num
    assert not list((tmp_path / "m").glob("_*"))


def test_an_id_that_comes_twice_is_named_with_both_places(vigc_here, tmp_path):
    rows = [{"image_id": one, "uri": f"{n}.png"} for n, one in enumerate(["a", "b", "c", "b", "a"])]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")

    result = vigc_here("ingest", tmp_path / "in.parquet", "--out", tmp_path / "m")

    assert result.code == 2
    assert f"image_id 'b' comes twice: {tmp_path}/in.parquet: row 1, and {tmp_path}/in.parquet: row 3" in result.err
    assert not (tmp_path / "m").exists()


def test_a_selection_is_written_and_what_was_left_out_is_counted(vigc_here, tmp_path):
    photos(tmp_path / "p")
    (tmp_path / "no.txt").write_text("001\n002.png\nnobody\n")
    parts = ("--exclude", tmp_path / "no.txt", "--sample", 6, "--seed", 5)

    whole = vigc_here("ingest", tmp_path / "p", "--out", tmp_path / "whole", *parts)
    for number in (1, 2):
        vigc_here("ingest", tmp_path / "p", "--out", tmp_path / str(number), *parts, "--shard", f"{number}/2")

    assert "2 images excluded; 1 ids of the list fit no image" in whole.out
    halves = [record for number in (1, 2) for record in open_source(str(tmp_path / str(number)))]
    assert halves == list(open_source(str(tmp_path / "whole")))
    assert len(halves) == 6


def test_several_annotation_files_are_joined(vigc_here, tmp_path):
    coco = write_coco(tmp_path / "coco", 3)
    said = {"images": [{"id": 1, "file_name": "001.png"}], "annotations": [{"image_id": 1, "caption": "A dog."}]}
    (tmp_path / "captions.json").write_text(json.dumps(said))

    files = ("--annotations", coco / "annotations.json", "--annotations", tmp_path / "captions.json")
    vigc_here("ingest", coco / "images", *files, "--out", tmp_path / "m")

    assert [record.captions for record in open_source(str(tmp_path / "m"))] == [None, ["A dog."], None]


def test_progress_is_said_in_lines_where_there_is_no_terminal(vigc_here, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PLAIN_INTERVAL_S", 0)
    monkeypatch.setattr("vigc.platform.sources.coco.RECORDS_PER_TABLE", 10)
    lines = vigc_here("ingest", write_coco(tmp_path / "coco"), "--out", tmp_path / "m").out.splitlines()

    assert any(line.startswith("20 of 30 images, ") and line.endswith(" s left") for line in lines)
