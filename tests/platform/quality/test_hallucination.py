"""Hallucination over the rows of a data set: worked out by hand, against the texts themselves, in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
from annotated_datasets import AnnotatedAnswer, data_set

from vigc.platform.dataset.store import Store
from vigc.platform.dataset.verdicts import write_verdicts
from vigc.platform.quality.chair import COUNTS, MAX_GROUPS, ChairTally, chair
from vigc.platform.quality.mentions import ObjectFinder
from vigc.platform.records import Kind, Verdict
from vigc.platform.report.summary import summarise
from vigc.platform.vocabulary import load_vocabulary

# What each image holds, VIG's answer and the final one; absent ones in capitals.
SAID = [
    AnnotatedAnswer(["person", "dog"], "A man and a puppy. A CAT and a CAT.", "A man and a puppy."),
    AnnotatedAnswer(["bus"], "A bus. A HORSE.", "A bus. A HORSE."),
    AnnotatedAnswer(["cat", "couch"], "It rains.", "A cat on a couch."),
    AnnotatedAnswer(None, "A horse.", "A horse."),  # nobody annotated it: not judged
    AnnotatedAnswer(["dog"], "A cat.", "", status=Verdict.REJECTED),  # came to nothing: not judged
]


def figures(found: dict) -> list[float | None]:
    return [found[name] and found[name]["value"] for name in ("chair_s", "chair_i", "recall", "mean_words")]


def test_a_data_set_worked_out_by_hand(tmp_path):
    found = summarise(data_set(tmp_path / "out", [[one] for one in SAID]))["hallucination"]
    (answers,) = found["kinds"].values()

    assert found["vocabulary"] == "coco"
    # VIG: 2 of 3 texts are wrong; 3 of 6 mentions; of person, dog, bus, cat, couch three are named; 10 + 4 + 2 words
    assert figures(answers["vig"]) == pytest.approx([2 / 3, 3 / 6, 3 / 5, 16 / 3])
    # VIC: 1 of 3 texts; 1 of 6 mentions; all five; 5 + 4 + 5 words
    assert figures(answers["vic"]) == pytest.approx([1 / 3, 1 / 6, 5 / 5, 14 / 3])
    assert answers["kept"] == answers["vic"]
    assert answers["vig"]["num_texts"] == 3


def test_what_verdicts_reject_is_counted_before_and_not_after(tmp_path):
    store = data_set(tmp_path / "out", [[one] for one in SAID])
    rejected = {"image_id": ["im1.png"], "kind": ["detail"], "pass": ["001"], "verdict": ["rejected"]}
    write_verdicts(store.folder, "filter", [{**rejected, "reasons": [["absent"]]}], {})
    (answers,) = summarise(store)["hallucination"]["kinds"].values()

    assert (answers["vig"]["num_texts"], answers["vic"]["num_texts"], answers["kept"]["num_texts"]) == (3, 3, 2)
    assert answers["kept"]["chair_s"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_the_rows_say_what_the_texts_say(tmp_path):
    """The figures from columns equal `chair` on the texts, general words for special categories included."""
    objects = [["sneakers"], ["pigeon", "desk"], ["slippers", "dog"], []]
    texts = ["Shoes and a dog.", "A bird on a table. A bird.", "Sneakers.", "Nothing."]
    store = data_set(
        tmp_path / "out", [[AnnotatedAnswer(o, t, t[::-1])] for o, t in zip(objects, texts, strict=True)], "objects365"
    )
    found = summarise(store)["hallucination"]["kinds"]["detail"]["vig"]
    rows = sorted(store.rows(), key=lambda row: row["image_id"])
    expected = chair(
        [(row["conversations"][0]["vig_answer"], row["objects_present"]) for row in rows],
        ObjectFinder(load_vocabulary("objects365")),
    )

    assert expected.num_mentions >= 5
    assert figures(found) == [
        one and one.value for one in (expected.chair_s, expected.chair_i, expected.recall, expected.mean_words)
    ]
    assert found["num_absent"] == expected.num_absent


def test_where_no_object_is_named_there_are_no_figures(tmp_path):
    from datasets import finished

    assert summarise(finished(tmp_path / "out"))["hallucination"] is None


def test_without_an_answer_of_vig_s_only_the_final_one_is_counted(tmp_path):
    found = summarise(data_set(tmp_path / "out", [[AnnotatedAnswer(["dog"], "", "A dog.")]]))["hallucination"]
    assert set(found["kinds"]["detail"]) == {"vic", "kept"}


def test_pairs_that_are_named_together_by_habit_come_first(tmp_path):
    # Dogs and frisbees are as often together as chance has it, and always named together; cats come as they are.
    images = []
    for number in range(32):
        there = [name for bit, name in enumerate(("dog", "frisbee", "cat")) if number >> bit & 1]
        habit = ["dog", "frisbee"] if "dog" in there or "frisbee" in there else []
        named = [*habit, *(name for name in there if name == "cat")]
        images.append([AnnotatedAnswer(there, "", " ".join(f"A {name}." for name in named) or "Nothing.")])
    first = summarise(data_set(tmp_path / "out", images))["hallucination"]["pairs_named_more_than_annotated"][0]

    assert first["objects"] == ["dog", "frisbee"]
    assert (first["num_named"], first["num_annotated"]) == (24, 8)
    assert first["lift_annotated"] == pytest.approx(1)  # 8 of 32, each in 16
    assert first["lift_vic"] == pytest.approx(32 / 24)  # always together, each in 24 of 32


def test_kinds_that_name_little_and_much_make_no_lift_of_their_own(tmp_path):
    one = AnnotatedAnswer(["dog", "cat"], "", "A dog and a cat.")
    other = AnnotatedAnswer(["dog", "cat"], "", "Nothing.", kind=Kind.CONVERSATION)
    found = summarise(data_set(tmp_path / "out", [[one, other]] * 20))["hallucination"]
    assert found["pairs_named_more_than_annotated"] == []


def test_a_tally_of_many_texts_holds_no_more_and_has_the_same_intervals():
    random = np.random.default_rng(0)
    num = 5 * MAX_GROUPS + 17
    wrong = random.random(num) < 0.2
    mentions = random.integers(1, 9, num)
    counts = np.zeros((num, len(COUNTS)))
    for name, values in (("texts", 1), ("words", mentions * 3), ("mentions", mentions), ("absent", wrong)):
        counts[:, COUNTS.index(name)] = values
    counts[:, COUNTS.index("is_wrong")] = wrong
    tally = ChairTally()
    for part in np.array_split(counts, 50):
        tally.add(part)
    made = tally.metrics()

    assert len(tally._sums) == MAX_GROUPS
    assert made.num_texts == num
    assert made.chair_s.value == pytest.approx(wrong.mean())
    half_width = 1.96 * np.sqrt(wrong.mean() * (1 - wrong.mean()) / num)
    assert made.chair_s.high - made.chair_s.value == pytest.approx(half_width, rel=0.15)
    assert made.chair_s.value - made.chair_s.low == pytest.approx(half_width, rel=0.15)


def test_verdicts_of_an_older_text_do_not_judge_a_newer_one(tmp_path):
    from annotated_datasets import add_pass

    store = data_set(tmp_path / "out", [[SAID[0]], [SAID[1]]])
    columns = {"image_id": ["im0.png", "im1.png"], "kind": ["detail"] * 2, "pass": ["001"] * 2}
    write_verdicts(store.folder, "filter", [{**columns, "verdict": ["rejected"] * 2, "reasons": [["x"], ["x"]]}], {})
    add_pass(store, [[SAID[0]]], seed=1)
    status = {row["image_id"]: row["conversations"][0]["status"] for row in Store(tmp_path / "out").rows()}

    assert status == {"im0.png": "kept", "im1.png": "rejected"}
