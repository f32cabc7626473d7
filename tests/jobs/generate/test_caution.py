"""The embedded model knows rendered scenes only. Of anything else its texts are fluent and wrong, and that is said."""

from __future__ import annotations

import json
import shutil

import pytest
from datasets import commit, records, row
from PIL import Image

from vigc.jobs.generate.config import GenerateConfig
from vigc.jobs.generate.plan import make_plan
from vigc.platform.dataset.caution import caution
from vigc.platform.dataset.followup_passes import SameImages
from vigc.platform.dataset.store import Store
from vigc.platform.exports import export
from vigc.platform.report import write_report
from vigc.platform.report.summary import summarise
from vigc.platform.sources import Selection, open_source
from vigc.platform.sources.base import Records

WRONG = "fluent and wrong"
REQUEST = {"kinds": ["conversation", "detail"], "source": "test", "model": {"name": "embedded", "weights": "0"}}


class Scenes(Records):
    def are_scenes(self):
        return True


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(2):
        Image.effect_noise((96, 64), 80).convert("RGB").save(tmp_path / "photos" / f"{number}.png")
    return tmp_path / "photos"


def data_set(out, request=REQUEST, kind=Records):
    store = Store(out)
    commit(store.create_pass(request, kind(records(3))), map(row, records(3)), 0)
    return store


def without_info(scenes_dir, folder):
    shutil.copytree(scenes_dir, folder)
    document = json.loads((folder / "annotations.json").read_text())
    document["info"]["description"] = "holidays"
    (folder / "annotations.json").write_text(json.dumps(document))
    return folder


def test_scenes_are_known_by_what_their_annotations_say_of_themselves(scenes_dir, photos, tmp_path, vigc_here):
    source = open_source(str(scenes_dir))
    assert source.are_scenes()
    assert Selection(source, limit=2).are_scenes()
    others = without_info(scenes_dir, tmp_path / "others")
    assert not open_source(str(others)).are_scenes()
    assert not open_source(str(scenes_dir / "images")).are_scenes()
    assert not open_source(str(photos)).are_scenes()
    for folder, known in ((scenes_dir, True), (others, False)):
        manifest = tmp_path / f"manifest-{known}"
        assert vigc_here("ingest", folder, "--out", manifest).code == 0
        assert open_source(str(manifest)).are_scenes() is known


def test_a_file_of_captions_about_scenes_makes_nothing_else_of_them_but_other_images_do(scenes_dir, tmp_path):
    document = json.loads((scenes_dir / "annotations.json").read_text())
    more = {"images": document["images"], "annotations": [{"id": 1, "image_id": 0, "caption": "A scene."}]}
    files = [str(scenes_dir / "annotations.json"), str(tmp_path / "more.json")]
    (tmp_path / "more.json").write_text(json.dumps(more))
    assert open_source(str(scenes_dir / "images"), files).are_scenes()
    more["images"] = [*document["images"], {"id": 10_000, "file_name": "cat.jpg"}]
    (tmp_path / "more.json").write_text(json.dumps(more))
    assert not open_source(str(scenes_dir / "images"), files).are_scenes()


def test_what_is_known_is_kept_with_the_pass_and_holds_for_further_passes(tmp_path):
    scenes, photos = data_set(tmp_path / "scenes", kind=Scenes), data_set(tmp_path / "photos")
    assert [Store(str(one)).passes()[0].are_scenes for one in (scenes, photos)] == [True, False]
    assert SameImages(scenes).are_scenes()
    assert not SameImages(photos).are_scenes()


@pytest.mark.parametrize(
    ("model", "kind", "is_said"),
    [
        ({"name": "embedded"}, Records, True),
        ({"name": "embedded"}, Scenes, False),
        ({"name": "embedded-itself", "server": "vigc"}, Records, True),  # behind `vigc serve`
        ({"name": "instructblip-vicuna-7b"}, Records, False),
        (None, Records, False),
    ],
)
def test_report_summary_and_card_say_it_where_it_is_so(tmp_path, vigc_here, model, kind, is_said):
    store = data_set(tmp_path / "data", REQUEST | {"model": model}, kind)
    assert (caution(store.passes()) is not None) is is_said
    found = summarise(store)
    assert (found["caution"] is not None) is is_said
    write_report(store, found)
    assert (WRONG in (tmp_path / "data" / "report.html").read_text()) is is_said
    assert (WRONG in " ".join(vigc_here("summary", tmp_path / "data").out.split())) is is_said
    said = vigc_here("export", tmp_path / "data", "--format", "llava")
    assert said.code == 0
    assert (WRONG in said.out) is is_said
    for way in ("--model", "Qwen/Qwen3-VL-8B-Instruct"):
        assert (way in said.out) is is_said


def test_a_card_says_it_before_anything_else(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for record in records(3):
        Image.new("RGB", (8, 8)).save(pictures / record.image_id)
    for kind, is_said in ((Records, True), (Scenes, False)):
        store = Store(tmp_path / kind.__name__)
        wanted = [type(one)(one.image_id, str(pictures / one.image_id)) for one in records(3)]
        commit(store.create_pass(REQUEST, kind(wanted)), map(row, wanted), 0)
        export(store, "huggingface", tmp_path / f"hf-{kind.__name__}")
        card = (tmp_path / f"hf-{kind.__name__}" / "README.md").read_text()
        assert (WRONG in card) is is_said
        assert card.index(WRONG) < card.index("load_dataset") if is_said else True


def test_a_further_pass_by_a_real_model_leaves_the_first_one_marked(tmp_path):
    store = data_set(tmp_path / "data")
    store.create_pass(REQUEST | {"model": {"name": "llava"}, "kinds": ["reasoning"]}, Records(records(3)))
    assert caution(store.passes()).startswith("Pass 001: ")


def test_a_folder_that_is_called_like_it_is_another_model(photos, tmp_path):
    from vigc.model.embedded import PATH

    shutil.copytree(PATH, tmp_path / "mine" / "embedded")
    config = GenerateConfig(images=str(photos), out=str(tmp_path / "d"), model=str(tmp_path / "mine" / "embedded"))
    assert make_plan(config).request["model"]["name"] == "mine/embedded"


def test_a_run_over_photographs_says_it_before_and_after_and_one_over_scenes_does_not(
    vigc_joined, photos, scenes_dir, tmp_path
):
    said = vigc_joined("generate", photos, "--out", tmp_path / "data", "--kinds", "conversation")
    assert said.code == 0, said.err
    assert " ".join(said.out.split()).count(WRONG) == 2
    assert "--model" in said.out
    assert WRONG in json.loads((tmp_path / "data" / "summary.json").read_text())["caution"]
    assert WRONG in (tmp_path / "data" / "report.html").read_text()

    said = vigc_joined("generate", scenes_dir, "--out", tmp_path / "scenes", "--limit", 2, "--kinds", "conversation")
    assert said.code == 0, said.err
    assert WRONG not in " ".join(said.out.split())
    assert WRONG not in (tmp_path / "scenes" / "report.html").read_text()
