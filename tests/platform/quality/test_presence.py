"""From a source's annotations to the objects of each row: the vocabulary that is chosen, and what is written down."""

from __future__ import annotations

import pyarrow as pa
import pytest
from datasets import REQUEST, records, row, table
from records_for_quality import image

from vigc.platform.dataset.store import Store
from vigc.platform.quality.mentions import ObjectFinder
from vigc.platform.quality.presence import NameObjects
from vigc.platform.records import Sentence
from vigc.platform.schema import to_dict
from vigc.platform.sources.base import Records
from vigc.platform.vocabulary import Vocabulary, load_vocabulary, vocabulary_of


def test_all_categories_of_coco_are_coco_whatever_their_capitals_and_order() -> None:
    coco = load_vocabulary("coco")
    assert vocabulary_of(name.title() for name in reversed(coco.categories)) == coco
    assert vocabulary_of(load_vocabulary("objects365").categories).name == "objects365"


def test_what_a_source_never_annotates_is_not_judged_and_keeps_its_other_meaning() -> None:
    some = vocabulary_of(["dog", "person"])
    assert (some.name, some.categories) == ("coco, 2 of 80 categories", ("person", "dog"))
    assert ObjectFinder(some).categories("A woman with a puppy, a cat and a hot dog.") == ["person", "dog"]
    tables = vocabulary_of(["pigeon", "wild bird"])
    assert (tables.categories, tables.covers) == (("wild bird", "pigeon"), {"wild bird": ("pigeon",)})


def test_other_categories_name_themselves_with_english_words() -> None:
    own = vocabulary_of(["Dog", "Kobold", "garden gnome"])
    assert own.name == "source"
    assert ObjectFinder(own).categories("Kobolds, garden gnomes and puppies; a cat.") == [
        "kobold",
        "garden gnome",
        "dog",
    ]


def test_no_categories_make_no_vocabulary() -> None:
    assert vocabulary_of([]) is None


@pytest.mark.parametrize("name", ["coco", "objects365"])
def test_a_vocabulary_kept_with_a_pass_is_the_same_again(tmp_path, name: str) -> None:
    wanted = load_vocabulary(name)
    Store(tmp_path / "out").create_pass(REQUEST, Records(records(2)), vocabulary=wanted)
    (found,) = Store(tmp_path / "out").passes()
    kept = found.vocabulary()
    assert isinstance(kept, Vocabulary)
    assert (kept, kept.hash) == (wanted, wanted.hash)
    assert kept.hash != kept.restricted(["car"]).hash


def test_a_pass_without_a_vocabulary_has_none(tmp_path) -> None:
    assert Store(tmp_path / "out").create_pass(REQUEST, Records(records(2))).vocabulary() is None


def named(objects: list[str] | None, captions: list[str] | None = None) -> tuple[dict[str, object], ...]:
    """The rows' objects_present, and what the first conversation says of its answer and of VIG's."""
    made = to_dict(row(records(1)[0]))
    annotated = to_dict(image(objects, captions))
    made |= {"objects": annotated["objects"], "captions": annotated["captions"]}
    spoken = made["conversations"][0]
    spoken["sentences"] = [to_dict(Sentence("A dog and a dog.", grounding=0.25))]
    spoken["vig_sentences"] = [to_dict(Sentence("A dog.")), to_dict(Sentence("A cat on a couch."))]
    (found,) = NameObjects(load_vocabulary("coco"))(table([]).from_pylist([made], schema=table([]).schema)).to_pylist()
    return found, found["conversations"][0]


def test_a_row_says_what_is_present_and_each_sentence_of_both_answers_what_it_names() -> None:
    found, spoken = named(["Dog", "dog", "unicorn"], ["A sofa."])
    assert found["objects_present"] == ["couch", "dog"]
    assert spoken["sentences"] == [
        {"text": "A dog and a dog.", "grounding": 0.25, "objects_named": ["dog", "dog"], "objects_absent": []}
    ]
    said = [(one["objects_named"], one["objects_absent"]) for one in spoken["vig_sentences"]]
    assert said == [(["dog"], []), (["cat", "couch"], ["cat"])]


def test_where_nobody_annotated_objects_are_named_but_none_is_absent_or_present() -> None:
    found, spoken = named(None, ["A sofa."])
    assert found["objects_present"] is None
    assert [one["objects_absent"] for one in spoken["vig_sentences"]] == [None, None]
    assert [one["objects_named"] for one in spoken["vig_sentences"]] == [["dog"], ["cat", "couch"]]


def test_nothing_else_of_a_row_changes() -> None:
    before = table([row(record, error=error) for record, error in zip(records(2), (None, "truncated"), strict=True)])
    after = NameObjects(load_vocabulary("coco"))(before)
    assert isinstance(after, pa.Table)
    assert after.schema == before.schema
    assert after.drop(["conversations"]) == before.drop(["conversations"])
    texts = [[one["text"] for c in made["conversations"] for one in c["sentences"]] for made in after.to_pylist()]
    assert texts == [["The first pixel is 7-0-0."] * 2, []]
