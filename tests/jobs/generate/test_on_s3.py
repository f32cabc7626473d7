"""The verbs that read, on a data set that lies in S3."""

from __future__ import annotations

import json

import pytest
from datasets import finished

from vigc.platform.dataset.digest import digest
from vigc.platform.report.summary import write_summary
from vigc.platform.storage import open_folder


@pytest.fixture
def out(s3_place):
    store = finished(f"{s3_place}/data", num=6, failed=1)
    write_summary(store)
    return str(store)


def test_a_data_set_in_s3_reads_like_one_on_disk(vigc_here, out, tmp_path):
    finished(tmp_path / "data", num=6, failed=1)

    verified = vigc_here("verify", out)
    assert (verified.code, verified.err) == (0, "")
    assert verified.out.splitlines()[-1].startswith("ok: 6 images asked for, 6 rows, 1 of them for images that could")
    assert vigc_here("verify", out, "--json").json()["passes"][0]["num_rows"] == 6
    assert vigc_here("digest", out).out == f"{digest(tmp_path / 'data')}\n"
    assert (
        vigc_here("show", out, "--limit", 9, "--json").out
        == vigc_here("show", tmp_path / "data", "--limit", 9, "--json").out
    )
    assert "The first pixel is 3-0-0." in vigc_here("show", out, "--image-id", "im3.png").out
    assert "im5.png" in vigc_here("show", out, "--failed").out


def test_it_exports_to_a_file_here_and_in_s3(vigc_here, out, s3_place, tmp_path):
    here = vigc_here("export", out, "--out", tmp_path / "train.json", "--json").json()
    beside = vigc_here("export", out, "--json").json()
    there = vigc_here("export", out, "--out", f"{s3_place}/deep/train.json", "--json").json()

    assert (here["file"], beside["file"]) == (str(tmp_path / "train.json"), f"{out}/exports/llava.json")
    assert there["file"] == f"{s3_place}/deep/train.json"
    examples = json.loads((tmp_path / "train.json").read_text())
    assert [one["num_examples"] for one in (here, beside, there)] == [len(examples)] * 3 == [4] * 3
    for folder, name in ((f"{out}/exports", "llava.json"), (f"{s3_place}/deep", "train.json")):
        assert json.loads(open_folder(folder).read(name)) == examples
    assert vigc_here("verify", out).code == 0  # an export is no stray file


def test_an_export_to_s3_is_checked_there(vigc_here, out, s3_place):
    result = vigc_here("export", out, "--out", f"{s3_place}/train.json", "--check")

    assert result.code == 2
    assert "there is no file /nowhere/im1.png" in result.err


def test_a_row_file_that_is_gone_from_s3_is_named_with_its_images(vigc_here, out):
    folder = open_folder(f"{out}/passes/001/rows")
    first = sorted(entry.name for entry in folder.files())[0]
    folder.delete(first)

    found = vigc_here("verify", out, "--json")

    assert found.code == 1
    assert found.json()["num_missing"] == 6
    assert found.json()["missing"][0] == ["im0.png", "conversation"]


def test_a_place_in_s3_without_a_data_set_is_one_line(vigc_here, s3_place):
    for verb in ("verify", "digest", "show", "export"):
        result = vigc_here(verb, f"{s3_place}/nothing")
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert f"{s3_place}/nothing holds no data set" in result.err
