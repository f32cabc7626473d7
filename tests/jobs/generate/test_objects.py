"""`--objects`: which vocabulary a run names objects in, and what a further run makes of that."""

from __future__ import annotations

import json
import shutil

import pytest

from vigc.jobs.generate.config import GenerateConfig
from vigc.jobs.generate.plan import make_plan
from vigc.platform.dataset.store import Store
from vigc.platform.quality.chair import chair
from vigc.platform.quality.mentions import ObjectFinder
from vigc.platform.records import ConfigError, StoreError


@pytest.fixture
def plan(scenes_dir, tmp_path):
    def make(**changed):
        return make_plan(GenerateConfig(**({"images": str(scenes_dir), "out": str(tmp_path / "data")} | changed)))

    return make


def begin(made):
    return made.store.create_pass(made.request, made.source, vocabulary=made.vocabulary)


def test_the_categories_of_rendered_scenes_are_their_own_vocabulary(plan):
    vocabulary = plan().vocabulary

    assert (vocabulary.name, len(vocabulary.categories)) == ("source", 12)
    assert "umbrella" in vocabulary.categories


def test_a_selection_has_the_categories_of_the_whole_source(plan):
    assert plan(limit=2).vocabulary == plan().vocabulary


def test_images_without_annotations_name_nothing_unless_a_vocabulary_is_given(plan, scenes_dir):
    folder = str(scenes_dir / "images")

    assert plan(images=folder).vocabulary is None
    assert "objects" not in plan(images=folder).request
    assert plan(images=folder, objects="coco").request["objects"]["vocabulary"] == "coco"
    assert plan(objects="none").vocabulary is None


def test_another_vocabulary_is_refused_and_the_difference_named(plan):
    begin(plan(objects="coco"))

    with pytest.raises(StoreError, match=r'objects\.vocabulary: "coco" -> "objects365"; objects\.hash: '):
        plan(objects="objects365")
    with pytest.raises(StoreError, match="objects: .* -> null"):
        plan(objects="none")


def test_a_data_set_goes_on_with_the_vocabulary_it_was_begun_with(plan, scenes_dir, tmp_path):
    begun = plan(objects="coco")
    begin(begun)

    assert plan().existing is not None
    assert plan().vocabulary == begun.vocabulary
    assert plan(kinds="knowledge", add_kind="knowledge").vocabulary == begun.vocabulary
    assert plan(new=True).vocabulary.name == "source"


def test_words_that_changed_in_a_file_are_another_request(plan, tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("categories: {ball: , car: [automobile]}")
    begin(plan(objects=str(file)))
    file.write_text("categories: {ball: , car: [automobile, batmobile]}")

    with pytest.raises(StoreError, match=r"objects\.hash"):
        plan(objects=str(file))


def test_a_vocabulary_that_is_not_there_is_one_line(plan):
    with pytest.raises(ConfigError, match="the vocabulary cannot be read"):
        plan(objects="/nowhere.yaml")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_manifest_has_the_categories_of_its_rows(plan, scenes_dir, tmp_path, suffix):
    import pyarrow as pa
    import pyarrow.parquet as pq

    picture = shutil.copy(scenes_dir / "images" / "000000.jpg", tmp_path / "one.jpg")
    boxes = [{"category": name, "bbox": [0.0, 0.0, 9.0, 9.0]} for name in ("dog", "gnome")]
    rows = [{"uri": str(picture), "image_id": str(i), "objects": boxes[:i]} for i in range(3)]
    file = tmp_path / f"rows.{suffix}"
    if suffix == "jsonl":
        file.write_text("\n".join(map(json.dumps, rows)))
    else:
        pq.write_table(pa.Table.from_pylist(rows), file)

    assert plan(images=str(file)).vocabulary.categories == ("dog", "gnome")


def test_a_run_over_annotated_images_prints_and_stores_what_its_texts_name_before_and_after(
    vigc_joined, scenes_dir, tmp_path
):
    out = tmp_path / "data"
    result = vigc_joined("generate", scenes_dir, "--out", out, "--kinds", "detail", "--limit", 6)
    assert result.code == 0, result.err
    said = " ".join(result.out.split())

    assert "objects named in the vocabulary source (12 categories)" in said
    assert "Boxes are incomplete" in said
    stored = json.loads((out / "summary.json").read_text())["hallucination"]["kinds"]["detail"]
    store = Store(out)
    finder = ObjectFinder(store.passes()[0].vocabulary())
    rows = list(store.rows())
    for answer, name in (("vig", "vig_answer"), ("vic", "answer")):
        expected = chair([(row["conversations"][0][name], row["objects_present"]) for row in rows], finder)
        assert stored[answer]["chair_i"]["value"] == expected.chair_i.value
        assert stored[answer]["recall"]["value"] == expected.recall.value > 0.5
        assert f" {expected.recall.value:.1%} " in said
    said_by_vig = [sentence for row in rows for sentence in row["conversations"][0]["vig_sentences"]]
    named = {category for sentence in said_by_vig for category in sentence["objects_named"]}
    assert named <= set(finder.vocabulary.categories)
    assert len(named) > 3
