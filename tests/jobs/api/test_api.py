"""`import vigc`: the Python API."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

import vigc
from vigc.platform.records import Kind


@pytest.fixture(scope="module")
def data(scenes_dir: Path, shared_ray: None, tmp_path_factory: pytest.TempPathFactory) -> vigc.Dataset:
    out = tmp_path_factory.mktemp("api") / "data"
    return vigc.generate(scenes_dir, out=out, kinds=["conversation", "detail"], limit=4, quiet=True)


def test_importing_costs_little_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, time; began = time.process_time(); import vigc; print(time.process_time() - began); vigc.generate;"
        "print([name for name in ('ray', 'torch', 'transformers', 'pandas') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split("\n")
    assert float(said[0]) < 0.3
    assert said[1] == "[]"


def test_a_name_that_there_is_not_is_told_with_those_that_there_are() -> None:
    with pytest.raises(AttributeError, match="it has Dataset, LoadedEngine"):
        _ = vigc.generates  # type: ignore[attr-defined]


def test_a_data_set_has_its_rows_in_every_form(data: vigc.Dataset) -> None:
    rows = sorted(data.rows(), key=lambda row: row["image_id"])
    assert len(rows) == data.summary["num_rows"] == 4
    table = data.to_arrow(["image_id", "status"])
    assert table["image_id"].to_pylist() == [row["image_id"] for row in rows]
    frame = data.to_pandas()
    assert list(frame["answer"]) == [
        talk["answer"] for row in rows for talk in sorted(row["conversations"], key=lambda talk: talk["kind"])
    ]
    assert data.verify().ok
    with pytest.raises(vigc.VigcError, match="no column 'answers'"):
        data.to_arrow(["answers"])


def test_the_same_call_again_makes_nothing_and_other_settings_are_refused(
    data: vigc.Dataset, scenes_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = data.to_arrow()
    again = vigc.generate(scenes_dir, out=data.place, kinds=["detail", "conversation"], limit=4, quiet=True)
    assert again.to_arrow() == before
    assert capsys.readouterr().out == ""
    with pytest.raises(vigc.VigcError, match="was made with other settings"):
        vigc.generate(scenes_dir, out=data.place, kinds=["detail"], limit=4)
    with pytest.raises(vigc.VigcError, match="There is no setting 'kind'"):
        vigc.generate(scenes_dir, out=data.place, kind="detail")


def test_what_is_kept_is_decided_and_exported(data: vigc.Dataset, tmp_path: Path) -> None:
    place = data.filter(max_words=6).export("llava", out=tmp_path / "train.json")
    kept = data.summary["num_kept"]
    assert 0 < kept < 8
    assert len(json.loads(Path(place).read_text())) == kept
    assert vigc.open(data.place).filter(clear=True).summary["num_kept"] == 8
    with pytest.raises(vigc.VigcError, match="There is no setting 'max_word'"):
        data.filter(max_word=6)


def test_a_notebook_is_shown_a_table_and_the_report(data: vigc.Dataset) -> None:
    shown = data._repr_html_()
    assert "4 images, 8 conversations kept, 0 failed" in shown
    assert shown.count("<tr>") == 6
    page = data.report()
    assert Path(str(page)).name == "report.html"
    assert page._repr_html_().startswith("<iframe srcdoc=")


def test_a_list_of_images_is_a_source_and_found_again(
    scenes_dir: Path, shared_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = sorted((scenes_dir / "images").iterdir())[:3]
    made = vigc.generate(files, out=tmp_path / "data", kinds=["conversation"], quiet=True)
    assert made.summary["num_rows"] == 3
    vigc.generate(files, out=tmp_path / "data", kinds=["conversation"], quiet=True)
    with pytest.raises(vigc.VigcError, match="made with other settings"):
        vigc.generate(files[:2], out=tmp_path / "data", kinds=["conversation"])
    with pytest.raises(vigc.VigcError, match="list of images is empty"):
        vigc.generate([], out=tmp_path / "other")


def test_there_is_no_data_set_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(vigc.VigcError, match="holds no data set"):
        vigc.open(tmp_path)


def test_an_engine_says_of_one_image_what_a_run_says(data: vigc.Dataset, scenes_dir: Path) -> None:
    row = min(data.rows(), key=lambda row: row["image_id"])
    file = scenes_dir / "images" / row["image_id"]
    expected = {talk["kind"]: (talk["question"], talk["answer"]) for talk in row["conversations"]}
    with vigc.load_engine() as engine:
        assert engine.name == "embedded"
        kinds = [Kind.CONVERSATION, "detail"]
        for image in (file, file.read_bytes(), Image.open(file)):
            spoken = vigc.converse(engine, image, kinds=kinds, image_id=row["image_id"])
            assert {talk.kind: (talk.question, talk.answer) for talk in spoken} == expected
        (short,) = vigc.converse(engine, file, kinds=["detail"], max_steps=1)
        assert expected["detail"][1].startswith(short.answer)
        (answered,) = vigc.converse(engine, file, kinds=["conversation"], question="Where was this picture taken?")
        assert answered.question == "Where was this picture taken?"
        (verified,) = vigc.converse(engine, file, kinds=["detail"], policy="verified", objects="coco")
        assert verified.answer
        for wrong, message in (
            ({"kinds": ["details"]}, "no kind 'details'"),
            ({"policy": "papers"}, "policy 'papers' is unknown"),
            ({"policy": "verified"}, "objects='coco'"),
            ({"steps": 1}, "option unknown"),
        ):
            with pytest.raises(vigc.VigcError, match=message):
                vigc.converse(engine, file, **wrong)
        with pytest.raises(vigc.VigcError, match="image cannot be used"):
            vigc.converse(engine, b"no image")
        with pytest.raises(vigc.VigcError, match="cannot be read"):
            vigc.converse(engine, scenes_dir / "nowhere.png")
    engine.close()  # twice does no harm


def test_an_engine_cannot_be_told_what_it_does_not_know() -> None:
    began = time.monotonic()
    with pytest.raises(vigc.VigcError, match="It takes model, endpoint_model"):
        vigc.load_engine(slot=3)
    assert time.monotonic() - began < 5
