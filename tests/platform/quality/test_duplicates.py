"""What is said twice or too often: questions, images, and the decisions about both."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from annotated_datasets import AnnotatedAnswer, data_set

from vigc.platform.quality.decide import Evaluation, decide
from vigc.platform.quality.questions import form_of, same_questions
from vigc.platform.quality.settings import FilterSettings
from vigc.platform.quality.similar_images import hashes_of, near_duplicates, nearest
from vigc.platform.records import ConfigError, Kind

CONVERSATION, REASONING = Kind.CONVERSATION, Kind.REASONING


def labels(*questions: str, overlap: float = 0.7, **how) -> list[int]:
    forms = [form_of(question) for question in questions]
    different = list(dict.fromkeys(forms))
    leader = same_questions(different, [forms.count(one) for one in different], overlap, **how)
    return [int(leader[different.index(one)]) for one in forms]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is the man doing?", "what's the man doing"),
        ("What is the man doing?", "Can you see what the man in this picture is doing?"),
        ("Is there a dog?", "Are there any dog?"),
        (
            "What is the tall man in the red shirt holding in his left hand?",
            "What is the tall man in the red shirt holding in his left hand today?",
        ),
    ],
)
def test_the_same_question_in_other_words_is_the_same(one: str, other: str) -> None:
    assert labels(one, other) == [0, 0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is the man doing?", "What is the woman doing?"),
        ("Is the dog left of the cat?", "Is the cat left of the dog?"),
        ("What is left of the dog?", "What is right of the dog?"),
        ("How many dogs are there?", "How many cats are there?"),
        ("Is it?", "Are they?"),
    ],
)
def test_another_question_in_much_the_same_words_is_another(one: str, other: str) -> None:
    assert len(set(labels(one, other))) == 2


def test_the_most_frequent_wording_leads() -> None:
    forms = ["what man holding his left hand today", "what man holding his left hand"]
    assert same_questions(forms, [1, 9], 0.7).tolist() == [1, 1]


def test_questions_found_by_hashes_are_those_found_by_comparing_each_with_each() -> None:
    random = np.random.default_rng(0)
    words = [f"w{number}" for number in range(40)]
    forms = list(dict.fromkeys(" ".join(random.choice(words, random.integers(4, 9))) for _ in range(150)))
    forms += [f"{form} more" for form in forms[:60]]
    found = same_questions(forms, [1] * len(forms), 0.7)

    def tokens(form: str) -> set[str]:
        parts = form.split()
        return {*parts, *(f"{a} {b}" for a, b in pairwise(parts))}

    expected: dict[str, str] = {}
    for form in sorted(forms):
        mine = tokens(form)
        leads = [one for one, leader in expected.items() if one == leader]
        follows = next((o for o in leads if len(mine & tokens(o)) >= 0.7 * len(mine | tokens(o))), form)
        expected[form] = follows
    same = [expected[form] == forms[found[place]] for place, form in enumerate(forms)]
    assert len(set(expected.values())) < len(forms) - 30
    assert np.mean(same) > 0.98  # hashes miss one pair in a hundred


def test_meanings_join_what_words_do_not() -> None:
    meanings = {"what colour car": (1, 0), "which hue automobile": (0.98, 0.2), "how many dogs": (0, 1)}

    def embed(texts):
        found = np.array([meanings[text] for text in texts], np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    forms = list(meanings)
    assert same_questions(forms, [3, 2, 1], 0.7, embed=embed, meaning=0.9).tolist() == [0, 0, 2]
    assert same_questions(forms, [3, 2, 1], 0.7).tolist() == [0, 1, 2]


def test_near_images_follow_the_first_and_no_chain_joins_far_ones() -> None:
    a = 0x0123456789ABCDEF
    near, farther, other = a ^ 0b111, a ^ 0b1111111, ~a & (2**64 - 1)
    hashes = hashes_of([f"{one:016x}" for one in (a, near, farther, other, a)])
    assert near_duplicates(hashes, 4).tolist() == [0, 0, 2, 3, 0]
    assert near_duplicates(hashes, 0).tolist() == [0, 1, 2, 3, 0]


@pytest.mark.parametrize("distance", [0, 3, 5])
def test_near_images_are_those_found_by_comparing_each_with_each(distance: int) -> None:
    random = np.random.default_rng(1)
    base = random.integers(0, 2**63, 40, dtype=np.uint64)
    flips = np.bitwise_or.reduce(np.uint64(1) << random.integers(0, 64, (400, 4)).astype(np.uint64), axis=1)
    flips[:100] = 0
    hashes = np.concatenate([base, base[random.integers(0, 40, 400)] ^ flips])
    expected: list[int] = []
    for number, one in enumerate(hashes):
        leads = [i for i in range(number) if expected[i] == i]
        near = [i for i in leads if int(one ^ hashes[i]).bit_count() <= distance]
        expected.append(near[0] if near else number)
    assert len(set(expected)) < len(hashes)
    assert near_duplicates(hashes, distance).tolist() == expected


def test_the_nearest_evaluation_image_is_named() -> None:
    found = list(nearest(hashes_of(["00" * 8, "ff" * 8]), hashes_of(["0f" + "00" * 7, "03" + "00" * 7]), 3))
    assert found == [(0, 1, 2)]
    assert list(nearest(hashes_of(["00" * 8]), hashes_of([]), 3)) == []


def images(*said):
    return [list(one) if isinstance(one, list | tuple) else [one] for one in said]


def rejected(store, **settings) -> dict[tuple[str, str], list[str]]:
    made = decide(store, FilterSettings(**settings))
    return {
        (image_id, kind): reasons
        for columns in made.verdicts()
        for image_id, kind, reasons in zip(columns["image_id"], columns["kind"], columns["reasons"], strict=True)
    }


def say(
    question: str, answer: str = "He rides a horse.", kind: Kind = CONVERSATION, phash: str | None = None
) -> AnnotatedAnswer:
    return AnnotatedAnswer(["horse", "person"], "", answer, question, kind, phash=phash)


def test_the_same_question_is_kept_once_for_an_image_and_once_for_its_copies(tmp_path):
    store = data_set(
        tmp_path / "out",
        images(
            [say("What is he doing?", phash="0" * 16), say("What's he doing?", kind=REASONING)],
            [say("What is he doing?", phash="0" * 15 + "3"), say("Why does he ride?", kind=REASONING)],
            [say("What is he doing?", phash="f" * 16), say("Why?", kind=REASONING)],
            [say("What is he doing?"), say("Why?", kind=REASONING)],
        ),
    )
    assert rejected(store) == {
        ("im0.png", "reasoning"): ["same_question"],
        ("im1.png", "conversation"): ["similar_image"],
    }
    assert rejected(store, off=("same_question", "similar_image")) == {}


def test_a_question_is_asked_no_more_than_its_share_and_a_hundred_times_always(tmp_path, monkeypatch):
    monkeypatch.setattr("vigc.platform.quality.corpus.ALWAYS_ALLOWED", 3)
    store = data_set(
        tmp_path / "out",
        images(*[say("What is he doing?")] * 8, *[say(f"Why number {i}?") for i in range(8)]),
    )
    gone = rejected(store, max_same_question=0.1)
    assert list(gone.values()) == [["asked_too_often"]] * 5
    assert rejected(store, max_same_question=0.1) == gone
    assert rejected(store, max_same_question=0.1, seed=1).keys() != gone.keys()
    assert len(rejected(store, max_same_question=0.25)) == 4
    descriptions = data_set(tmp_path / "more", images(*[say("What?", kind=Kind.DETAIL)] * 8))
    assert rejected(descriptions, max_same_question=0.1) == {}


def test_no_opening_takes_more_than_its_share_of_what_is_left(tmp_path):
    questions = [f"What is {i}?" for i in range(20)] + [f"How many {i}?" for i in range(4)]
    questions += [f"Where are {i}?" for i in range(4)]
    store = data_set(tmp_path / "out", images(*map(say, questions)))
    gone = rejected(store, max_opening=0.5)
    assert Counter(map(tuple, gone.values())) == {("opening",): 12}  # 8 of 16 are left
    with pytest.raises(ConfigError, match=r"begin in only 3 ways. The least that is possible is 0.333"):
        rejected(store, max_opening=0.2)


def test_yes_and_no_are_balanced_where_both_are_said(tmp_path):
    answers = ["Yes, he does."] * 9 + ["No."] * 3 + ["Notably, yes."] * 2
    store = data_set(tmp_path / "out", images(*[say(f"Is he {i}?", answer) for i, answer in enumerate(answers)]))
    gone = rejected(store, max_yes_no=0.5)
    assert len(gone) == 6
    assert all(int(image_id.strip("im.png")) < 9 for image_id, _ in gone)
    yes = data_set(tmp_path / "yes", images(*[say(f"Is he {i}?", "Yes.") for i in range(4)]))
    assert rejected(yes, max_yes_no=0.5) == {}


def test_what_one_conversation_is_rejected_for_leaves_room_for_another(tmp_path):
    store = data_set(
        tmp_path / "out", images([say("Who rides?", "A man rides along the long"), say("Who rides?", kind=REASONING)])
    )
    assert rejected(store) == {("im0.png", "conversation"): ["truncated"]}


def test_all_reasons_are_told_and_counted_alone_and_together(tmp_path):
    store = data_set(
        tmp_path / "out",
        images(
            AnnotatedAnswer(["dog"], "", "A cat and a horse walk along the", "Look"),
            AnnotatedAnswer(["dog"], "", "A cat and a horse.", "What?"),
            AnnotatedAnswer(None, "", "A cat and a horse.", "What?", kind=CONVERSATION, grounding=[0.1]),
        ),
    )
    made = decide(store, FilterSettings(min_grounding=0.5))
    (columns,) = made.verdicts()
    assert columns["reasons"] == [["truncated", "absent"], ["absent"], ["low_grounding"]]
    assert columns["pass"] == ["001"] * 3
    counts = {one["name"]: (one["judged"], one["rejected"], one["alone"]) for one in made.about["filters"]}
    assert (counts["absent"], counts["truncated"], counts["low_grounding"]) == ((2, 2, 1), (3, 1, 0), (1, 1, 1))
    assert (made.about["judged"], made.about["kept"], made.about["rejected"]) == (3, 0, 3)


def test_images_like_evaluation_images_are_rejected_and_listed(tmp_path):
    store = data_set(
        tmp_path / "out", images(say("Who?", phash="0" * 16), say("Where?", phash="f" * 16), say("When is it?"))
    )
    evaluation = Evaluation("a benchmark", ["a.jpg", "b.jpg"], hashes_of(["0" * 8 + "f" * 8, "0" * 15 + "1"]), 0)
    made = decide(store, FilterSettings(), evaluation=evaluation)
    (columns,) = made.verdicts()
    assert (columns["image_id"], columns["reasons"]) == (["im0.png"], [["like_evaluation_image"]])
    assert made.about["evaluation_images"]["matches"] == [{"image_id": "im0.png", "like": "b.jpg", "distance": 1}]


def test_a_name_that_is_no_filter_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--off nonsense: no such filter; there are absent, asked_too_often"):
        rejected(data_set(tmp_path / "out", images(say("Who?"))), off=("nonsense",))


def test_conversations_that_came_to_nothing_are_not_judged(tmp_path):
    from vigc.platform.records import Verdict

    store = data_set(tmp_path / "out", images(AnnotatedAnswer(["dog"], "", "", status=Verdict.REJECTED)))
    made = decide(store, FilterSettings())
    assert (list(made.verdicts()), made.about["judged"]) == ([], 0)
