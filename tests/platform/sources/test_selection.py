from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vigc.platform.records import ConfigError, ImageRecord, InputError
from vigc.platform.sources import Selection, Source
from vigc.platform.sources.base import in_tables
from vigc.platform.sources.selection import read_ids


class Listed(Source):
    name = "listed"

    def __init__(self, ids):
        self.ids = list(ids)

    def describe(self):
        return "listed"

    def tables(self):
        for start in range(0, len(self.ids), 7):
            yield from in_tables(ImageRecord(one, f"/nowhere/{one}") for one in self.ids[start : start + 7])


HUNDRED = [f"im{number}.png" for number in range(100)]
COCO = [
    "train2014/COCO_train2014_000000000042.jpg",
    "000000000007.jpg",
    "im9.png",
    "in/x.png",
    "objects365_v2_00000007.jpg",
]


def ids(source):
    return [record.image_id for record in source]


def test_the_first_so_many_are_taken_in_order():
    chosen = Selection(Listed(HUNDRED), limit=10)
    assert ids(chosen) == ids(chosen) == HUNDRED[:10]
    assert chosen.num_images() == 10
    assert ids(Selection(Listed(HUNDRED), limit=1000)) == HUNDRED


def test_a_sample_depends_on_the_seed_and_the_ids_alone():
    sample = ids(Selection(Listed(HUNDRED), sample=20, seed=3))
    backwards = ids(Selection(Listed(reversed(HUNDRED)), sample=20, seed=3))
    assert len(set(sample)) == 20
    assert sample == sorted(sample, key=HUNDRED.index) == backwards[::-1]
    assert sample != ids(Selection(Listed(HUNDRED), sample=20, seed=4))
    assert ids(Selection(Listed(HUNDRED), sample=500)) == HUNDRED


def test_the_shards_are_together_the_whole():
    shards = [ids(Selection(Listed(HUNDRED), sample=50, shard=f"{i}/7")) for i in range(1, 8)]
    assert [one for shard in shards for one in shard] == ids(Selection(Listed(HUNDRED), sample=50))
    assert {len(shard) for shard in shards} == {7, 8}


def test_the_order_is_exclude_limit_sample_shard(tmp_path):
    (tmp_path / "no.txt").write_text("\n".join(HUNDRED[:50]))
    chosen = Selection(Listed(HUNDRED), exclude=str(tmp_path / "no.txt"), limit=20, sample=10, seed=1, shard="2/2")
    sample = Selection(Listed(HUNDRED[50:70]), sample=10, seed=1)
    assert ids(chosen) == ids(sample)[5:]
    assert HUNDRED[int(chosen.place(0).removeprefix("image ")) - 1] == ids(chosen)[0]
    assert chosen.describe().startswith("listed; without those of ")
    assert chosen.describe().endswith("no.txt; the first 20; a sample of 10 (seed 1); shard 2/2")


@pytest.mark.parametrize(
    ("entries", "left"),
    [
        ([42], COCO[1:]),
        (["42"], COCO[1:]),
        (["000000000042"], COCO[1:]),
        (["COCO_train2014_000000000042"], COCO[1:]),
        ([7], [COCO[0], *COCO[2:]]),
        (["im9.png", "x", "in"], [*COCO[:2], COCO[4]]),
        (["x.png"], [*COCO[:3], COCO[4]]),
        ([9, "im", "5"], COCO),
    ],
)
def test_an_entry_is_an_id_its_last_part_or_a_coco_number(tmp_path, entries, left):
    (tmp_path / "ids.json").write_text(json.dumps(entries))
    chosen = Selection(Listed(COCO), exclude=str(tmp_path / "ids.json"))
    assert ids(chosen) == left
    assert chosen.num_excluded == len(COCO) - len(left)


def test_every_form_of_list_is_read_and_what_fits_no_image_is_counted(tmp_path):
    (tmp_path / "a.txt").write_text("im0.png\n\nim1.png \nnobody\n")
    (tmp_path / "b.json").write_text(json.dumps({"llava": ["im0.png", 99], "okvqa": ["im1.png"]}))
    (tmp_path / "c.csv").write_text("n,image_id\n1,im0.png\n2,im1.png\n3,nobody\n")
    pq.write_table(pa.table({"image_id": ["im0.png", "im1.png", "nobody"]}), tmp_path / "d.parquet")
    for name in ("a.txt", "b.json", "c.csv", "d.parquet"):
        chosen = Selection(Listed(HUNDRED), exclude=str(tmp_path / name))
        assert ids(chosen) == HUNDRED[2:], name
        assert (chosen.num_excluded, chosen.num_unmatched) == (2, 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "a.json"),
        ("a.json", '[{"id": 1}]', r"a\.json: not a list of ids\. Write a JSON list"),
        ("a.csv", "id\n1\n", r"a\.csv: no column 'image_id'"),
        ("a.txt", " \n", r"a\.txt: no id in it"),
        ("gone.txt", None, r"gone\.txt: no such file"),
    ],
)
def test_a_list_that_cannot_be_used_is_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        Selection(Listed(HUNDRED), exclude=str(tmp_path / name))


def test_excluding_everything_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(HUNDRED))
    with pytest.raises(InputError, match=r"a\.txt: all 100 images are excluded"):
        list(Selection(Listed(HUNDRED), exclude=str(tmp_path / "a.txt")))


@pytest.mark.parametrize("wrong", [{"shard": "0/4"}, {"shard": "5/4"}, {"shard": "x"}, {"limit": 0}, {"sample": -1}])
def test_numbers_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"--(shard|limit|sample)"):
        Selection(Listed(HUNDRED), **wrong)


def test_more_shards_than_images_leave_none_for_some():
    with pytest.raises(InputError, match=r"--shard 1/3: no image, of 2"):
        list(Selection(Listed(HUNDRED), limit=2, shard="1/3"))


def test_a_table_of_ids_without_their_column_is_named_each_time(tmp_path):
    table = tmp_path / "ids.csv"
    table.write_bytes(b"\xef\xbb\xbfname,image_id\nx,1\ny,\n")
    assert read_ids(str(table)).to_pylist() == ["1"]
    table.write_text("name\nx\n")
    for _ in range(20):
        with pytest.raises(InputError, match="no column 'image_id'"):
            read_ids(str(table))
