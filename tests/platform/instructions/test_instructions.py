from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from datasets import REQUEST, commit, finished, records, row, source

from vigc.platform.dataset.store import Store
from vigc.platform.exports import export
from vigc.platform.instructions import FORMATS, open_instructions
from vigc.platform.instructions.sides import mentions_sides
from vigc.platform.records import ConfigError, InputError, Kind, StoreError


def turn(number, value):
    return {"from": ("human", "gpt")[number % 2], "value": value}


def talk(*values, image="000000000042.jpg", **more):
    return {"id": "42", "image": image, "conversations": [turn(i, v) for i, v in enumerate(values)], **more}


def question(number, text="What is it made of?"):
    return {"image_id": 400 + number, "question": text, "question_id": 4000 + number}


def annotation(number, *answers, **more):
    given = [{"answer_id": i, "answer": a, "answer_confidence": "yes"} for i, a in enumerate(answers, 1)]
    return {"image_id": 400 + number, "question_id": 4000 + number, "answers": given, **more}


AOKVQA = {
    "split": "val",
    "image_id": 81721,
    "question_id": "x1",
    "question": "Which season is it?",
    "choices": ["summer", "winter", "autumn", "spring"],
    "correct_choice_idx": 1,
    "direct_answers": ["winter"] * 7 + ["cold season"] * 2 + ["winter "],
    "difficult_direct_answer": False,
    "rationales": ["Snow lies on the roof."] * 3,
}
VIGC = {"image": "a.jpg", "question": "What is he holding?", "answer": ["a kite"], "dataset": "detail_23k"}
PSEUDO = {
    "image": "b.jpg",
    "image_id": 7,
    "question": "Who wears it?",
    "answer": ["cook", "chef"],
    "weight": [30, 10.0],
}
LLAVA = [
    talk("<image>\nWhat is on the table?", "A cup.", "Is it full?", "Yes, it is."),
    talk("Why might he wait?\n<image>", "Because it rains."),
]


def write(folder, content, name="data.json"):
    path = folder / name
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_vqa(folder, questions, annotations, prefix="", split="train"):
    """The two files of OKVQA or VQAv2 under their published names."""
    asked = {"questions": questions, "data_subtype": f"{split}2014"}
    first = write(folder, asked, f"{prefix}OpenEnded_mscoco_{split}2014_questions.json")
    return first, write(folder, {"annotations": annotations}, f"{prefix}mscoco_{split}2014_annotations.json")


def test_each_turn_of_a_llava_record_becomes_a_question_without_the_image_mark(tmp_path):
    path = write(tmp_path, LLAVA)
    opened = open_instructions(path)
    assert (opened.format, opened.describe()) == ("llava", f"llava {path}")
    first, second, third = opened
    assert (first.question, first.answers, first.weights) == ("What is on the table?", ("A cup.",), (1.0,))
    assert (second.question, second.answers) == ("Is it full?", ("Yes, it is.",))
    assert (third.question, third.answers) == ("Why might he wait?", ("Because it rains.",))
    assert [one.kind for one in (first, second, third)] == [Kind.CONVERSATION, Kind.CONVERSATION, Kind.REASONING]
    assert [one.place for one in (second, third)] == [f"{path}: record 0, turn 2", f"{path}: record 1"]
    assert first.image == str(tmp_path / "000000000042.jpg")
    assert list(opened) == [first, second, third]  # as often as wanted


def test_records_without_an_image_are_skipped_and_counted(tmp_path):
    shared = {"id": "wgByO4Y_0", "model": "", "conversations": [{"from": "human", "value": "Tell me a joke."}]}
    unnamed = talk("Who wrote it?", "She did.", image=None)
    path = write(tmp_path, [shared, LLAVA[0], unnamed, LLAVA[1]], "llava_v1_5_mix665k.json")
    opened = open_instructions(path)
    assert opened.format == "llava"
    assert [one.question for one in opened] == ["What is on the table?", "Is it full?", "Why might he wait?"]
    assert [one.place for one in opened][2] == f"{path}: record 3"
    assert opened.describe() == f"llava {path}, 2 records without an image skipped"
    assert "skipped" not in open_instructions(write(tmp_path, LLAVA)).describe()
    assert list(open_instructions(write(tmp_path, [shared]))) == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("conversation_58k.json", Kind.CONVERSATION),
        ("detail_23k.json", Kind.DETAIL),
        ("complex_reasoning_77k.json", Kind.REASONING),
        ("converted.json", Kind.REASONING),  # says nothing, so the record decides
        ("conversation_and_detail.json", Kind.REASONING),  # says too much
    ],
)
def test_the_published_files_say_the_kind_in_their_name(tmp_path, name, kind):
    path = write(tmp_path, [LLAVA[1]], name)
    assert [one.kind for one in open_instructions(path)] == [kind]
    assert [one.kind for one in open_instructions(path, kind=Kind.KNOWLEDGE)] == [Kind.KNOWLEDGE]


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        ("Describe the following picture in detail.", Kind.DETAIL),
        ("Can you elaborate on the elements of this photograph?", Kind.DETAIL),
        ("What do you see happening here?", Kind.DETAIL),
        ("What is this photo about?", Kind.DETAIL),
        ("Please give an exhaustive depiction of the scene", Kind.DETAIL),
        ("What is happening in this picture that could worry the dog?", Kind.DETAIL),
        ("What challenges might the rider face?", Kind.REASONING),
        ("Explain why the man could be late.", Kind.REASONING),
        ("What are the details of the coat useful for?", Kind.REASONING),
        ("How do the elements in the image suggest a party?", Kind.REASONING),
    ],
)
def test_the_merged_file_tells_descriptions_from_reasoning_by_the_question(tmp_path, asked, kind):
    path = write(tmp_path, [talk(f"<image>\n{asked}", "Something.")], "llava_instruct_150k.json")
    assert [one.kind for one in open_instructions(path)] == [kind]


def test_our_own_export_comes_back_with_its_kinds(tmp_path):
    store = finished(tmp_path / "out")
    export(store, "llava", tmp_path / "detail.json")
    opened = open_instructions(tmp_path / "detail.json", images="s3://bucket/images/")
    assert Counter(one.kind for one in opened) == {Kind.CONVERSATION: 2, Kind.DETAIL: 2}
    first = next(iter(opened))
    assert (first.image, first.question) == ("s3://bucket/images/im1.png", "What colour is im1.png?")


def test_image_names_go_below_the_named_folder_or_beside_the_file_unless_they_are_whole(tmp_path, monkeypatch):
    names = ["a.jpg", "/abs/b.jpg", "https://host/c.jpg"]
    path = write(tmp_path, [talk("<image>What?", "That.", image=name) for name in names])

    def images(where, **options):
        return [one.image for one in open_instructions(where, **options)]

    assert images(path) == [str(tmp_path / "a.jpg"), *names[1:]]
    assert images(path, images="/data/coco/") == ["/data/coco/a.jpg", *names[1:]]
    assert images(path, images="s3://data/coco/") == ["s3://data/coco/a.jpg", *names[1:]]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert images(path.name)[0] == str(tmp_path / "a.jpg")
    assert images(path.name, images="coco")[0] == str(tmp_path / "coco" / "a.jpg")
    assert images(path.name, images="~/coco")[0] == "/home/me/coco/a.jpg"


def test_aokvqas_answers_are_drawn_as_often_as_they_were_given(tmp_path):
    path = write(tmp_path, [AOKVQA])
    (found,) = opened = list(open_instructions(path, images="/coco"))
    assert len(opened) == 1
    assert (found.answers, found.weights) == (("winter", "cold season"), (0.8, 0.2))
    assert (found.image, found.question) == ("/coco/val2017/000000081721.jpg", "Which season is it?")
    assert found.kind is Kind.KNOWLEDGE
    assert open_instructions(path).format == "aokvqa"
    assert next(iter(open_instructions(path, images="/coco/val2017"))).image == "/coco/val2017/000000081721.jpg"
    theirs = write(tmp_path, [{**AOKVQA, "image_path": "val2017/x.jpg"}], "theirs.json")
    assert next(iter(open_instructions(theirs))).image == str(tmp_path / "val2017" / "x.jpg")


def test_aokvqas_choices_are_there_when_they_are_asked_for(tmp_path):
    opened = open_instructions(write(tmp_path, [AOKVQA]), choices=True)
    (found,) = opened
    assert found.question == "Which season is it? Options: summer, winter, autumn, spring."
    assert (found.answers, found.weights) == (("winter",), (1.0,))
    assert "with choices" in opened.describe()
    with pytest.raises(ConfigError, match="only A-OKVQA has; this is llava"):
        open_instructions(write(tmp_path, LLAVA), choices=True)


def test_okvqa_joins_its_two_files_and_takes_the_unstemmed_answer(tmp_path):
    answers = annotation(1, "ride", "ride", "ride", "walk", question_type="one")
    for given, raw in zip(answers["answers"], ["riding", "riding", "ride", "walking"], strict=True):
        given["raw_answer"] = raw
    asked, answered = write_vqa(tmp_path, [question(2), question(1)], [answers, annotation(2, "wood")])
    for path in (asked, answered):
        opened = open_instructions(path, images="/coco")
        second, first = opened
        assert (first.answers, first.weights) == (("riding", "ride", "walking"), (0.5, 0.25, 0.25))
        assert (second.answers, second.question) == (("wood",), "What is it made of?")
        assert second.image == "/coco/train2014/COCO_train2014_000000000402.jpg"
        assert first.place == f"{asked}: question 1"
        assert opened.format == "okvqa"
        assert opened.describe() == f"okvqa {asked}, answers in {answered}"


def test_vqav2_is_recognised_by_its_annotations(tmp_path):
    annotations = [annotation(1, "no", "no", "yes", "no", multiple_choice_answer="no")]
    asked, _ = write_vqa(tmp_path, [question(1)], annotations, prefix="v2_", split="val")
    opened = open_instructions(asked)
    assert opened.format == "vqav2"
    write(tmp_path, {"questions": [question(1)]}, asked.name)  # the name says the split as well
    (found,) = open_instructions(asked)
    assert (found.answers, found.weights) == (("no", "yes"), (0.75, 0.25))
    assert found.image == str(tmp_path / "val2014" / "COCO_val2014_000000000401.jpg")


def test_a_vqa_file_without_its_partner_says_where_it_looked(tmp_path):
    asked, answered = write_vqa(tmp_path, [question(1)], [annotation(1, "wood")])
    answered.rename(tmp_path / "elsewhere.json")
    with pytest.raises(InputError, match="expected beside it, in mscoco_train2014_annotations.json"):
        open_instructions(asked)
    with pytest.raises(InputError, match="questions are expected beside it"):
        open_instructions(tmp_path / "elsewhere.json")
    (tmp_path / "elsewhere.json").rename(answered)
    write(tmp_path, {"questions": [question(1)]}, "OpenEnded_mscoco_questions.json")
    write(tmp_path, {"annotations": [annotation(1, "wood")]}, "mscoco_annotations.json")
    with pytest.raises(InputError, match="neither 'data_subtype' nor the file's name"):
        open_instructions(tmp_path / "OpenEnded_mscoco_questions.json")


def test_vigcs_own_json_comes_in_all_its_forms(tmp_path):
    generated = {"image": "c.jpg", "question": "What?", "answer": "It is.", "original_answer": "x", "dataset": "conv"}
    vqa = {"image": "d.jpg", "question": "How many?", "answer": ["two"] * 6 + ["2"] * 4, "question_id": 9}
    opened = open_instructions(write(tmp_path, [VIGC, PSEUDO, generated, vqa]))
    assert opened.format == "vigc"
    found = list(opened)
    assert [one.kind for one in found] == [Kind.DETAIL, Kind.KNOWLEDGE, Kind.CONVERSATION, Kind.KNOWLEDGE]
    assert [one.answers for one in found] == [("a kite",), ("cook", "chef"), ("It is.",), ("two", "2")]
    assert [one.weights for one in found] == [(1.0,), (0.75, 0.25), (1.0,), (0.6, 0.4)]


def test_generated_data_that_does_not_say_its_kind_asks_for_it(tmp_path):
    path = write(tmp_path, [{"image": "c.jpg", "question": "What?", "answer": "It is."}], "eval_epochbest.json")
    with pytest.raises(InputError, match="record 0 does not say of what kind.*pass the kind"):
        list(open_instructions(path))
    assert Counter(one.kind for one in open_instructions(path, kind=Kind.DETAIL)) == {Kind.DETAIL: 1}


def test_a_dataset_directory_gives_the_kept_conversations_and_no_others(tmp_path):
    finished(tmp_path / "out")
    opened = open_instructions(tmp_path / "out")
    found = sorted(opened, key=lambda one: one.place)
    assert (opened.format, opened.describe()) == ("dataset", f"dataset {tmp_path / 'out'}")
    assert [one.place for one in found] == [
        f"{tmp_path / 'out'}: image '{name}', {kind}"
        for name in ("im1.png", "im3.png")
        for kind in ("conversation", "detail")
    ]
    first = found[0]
    assert (first.image, first.question) == ("/nowhere/im1.png", "What colour is im1.png?")
    assert (first.answers, first.weights) == (("The first pixel is 1-0-0.",), (1.0,))
    moved = open_instructions(tmp_path / "out", images="gs://b/new")
    assert {one.image for one in moved} == {"gs://b/new/im1.png", "gs://b/new/im3.png"}


def test_a_dataset_with_an_empty_answer_says_so_and_one_with_nothing_kept_is_empty(tmp_path):
    pass_ = Store(tmp_path / "out").create_pass(REQUEST, source(1))
    made = row(records(1)[0])
    commit(pass_, [replace(made, conversations=[replace(made.conversations[0], answer=" ")])], 0)
    with pytest.raises(InputError, match="image 'im0.png', conversation has no answer"):
        list(open_instructions(tmp_path / "out"))
    finished(tmp_path / "rejected", num=1, failed=1)
    assert list(open_instructions(tmp_path / "rejected")) == []
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="holds no data set"):
        open_instructions(tmp_path / "empty")


def spoilt(record, **changes):
    return {k: v for k, v in (record | changes).items() if v is not None}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (spoilt(LLAVA[0], image=None), "record 2 needs 'image', a text, and has None"),
        (spoilt(LLAVA[0], image=7), "record 2 needs 'image', a text, and has 7"),
        (spoilt(LLAVA[0], image="\ud800.jpg"), "record 2, turn 0 holds .* no valid Unicode"),
        (spoilt(LLAVA[0], conversations=[]), "record 2 needs 'conversations'"),
        (talk("<image>What?"), "record 2 needs 'conversations'"),
        (
            talk("<image>What?", "A.", "What?", "B.") | {"conversations": [turn(1, "x"), turn(0, "y")]},
            "turn 0, is from 'gpt'",
        ),
        (talk("What <image> is it?", "A."), "record 2, turn 0, holds <image> inside"),
        (talk("<image>What?", "A <image>."), "record 2, turn 1, holds <image> inside"),
        (talk("<image>\n", "A."), "record 2 has an empty question"),
        (talk("<image>What?", " \n"), "record 2 has no answer"),
        (talk("<image>What?", "A.", "Why?", ""), "record 2, turn 3, needs 'value'"),
        (talk("<image>What?", "A.", "Why?", "\udfff"), "record 2, turn 2 holds .* no valid Unicode"),
        (spoilt(LLAVA[0], conversations=["hello", "you"]), "record 2, turn 0, is not an object"),
        ("hello", "record 2 is not an object"),
    ],
)
def test_a_bad_llava_record_is_named_after_the_good_ones(tmp_path, bad, message):
    path = write(tmp_path, [*LLAVA, bad])
    stream = iter(open_instructions(path))
    assert len(list(islice(stream, 3))) == 3
    with pytest.raises(InputError, match=message) as caught:
        list(stream)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (spoilt(AOKVQA, direct_answers=None, correct_choice_idx=None), "record 1 has no answers; the test split"),
        (spoilt(AOKVQA, direct_answers=[]), "record 1 needs 'direct_answers', a list of texts"),
        (spoilt(AOKVQA, direct_answers=["a", 3]), "record 1 needs 'direct_answers'"),
        (spoilt(AOKVQA, direct_answers=["", " "]), "record 1 has no answer that says anything"),
        (spoilt(AOKVQA, split=None), "record 1 needs 'split'"),
        (spoilt(AOKVQA, image_id="x"), "record 1 needs 'image_id', a whole number, and has 'x'"),
        (spoilt(AOKVQA, question=""), "record 1 needs 'question'"),
    ],
)
def test_a_bad_aokvqa_record_is_named(tmp_path, bad, message):
    with pytest.raises(InputError, match=message):
        list(open_instructions(write(tmp_path, [AOKVQA, bad])))


def test_a_choice_that_is_not_there_is_named(tmp_path):
    path = write(tmp_path, [spoilt(AOKVQA, correct_choice_idx=4)])
    with pytest.raises(InputError, match="record 0 has correct_choice_idx 4, but 4 choices"):
        list(open_instructions(path, choices=True))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (spoilt(PSEUDO, weight=[1]), "record 1 needs 'weight', 2 numbers"),
        (spoilt(PSEUDO, weight=[1, -1]), "record 1 needs 'weight'"),
        (spoilt(PSEUDO, weight=[1, float("nan")]), "record 1 needs 'weight'"),
        (spoilt(PSEUDO, weight=[0, 0]), "record 1 has no answer"),
        (spoilt(PSEUDO, answer=7), "record 1 needs 'answer', a list of texts, and has 7"),
        (spoilt(PSEUDO, answer="  "), "record 1 has no answer"),
        (spoilt(PSEUDO, image=None), "record 1 needs 'image'"),
    ],
)
def test_a_bad_vigc_record_is_named(tmp_path, bad, message):
    with pytest.raises(InputError, match=message):
        list(open_instructions(write(tmp_path, [VIGC, bad], "okvqa.json")))


@pytest.mark.parametrize(
    ("asked", "answered", "message"),
    [
        ([question(3)], [annotation(1, "a")], "question 0 has question_id 4003, which is not in .*annotations.json"),
        (
            [question(1)],
            [annotation(1, "a"), annotation(1, "b")],
            "annotation 1 answers question_id 4001, as annotation 0",
        ),
        ([question(1)], [annotation(1)], "annotation 0 needs 'answers'"),
        ([question(1)], [annotation(1) | {"answers": [{"answer": 1}]}], "annotation 0 has an answer without text"),
        ([question(1, "")], [annotation(1, "a")], "question 0 needs 'question'"),
        ([question(1) | {"image_id": -1}], [annotation(1, "a")], "question 0 needs 'image_id'"),
        ({}, [annotation(1, "a")], "holds a dict, not a list"),
    ],
)
def test_a_bad_vqa_record_is_named(tmp_path, asked, answered, message):
    path, _ = write_vqa(tmp_path, asked, answered)
    with pytest.raises(InputError, match=message):
        list(open_instructions(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"id": 1, ', "not a JSON file"),
        ("[]", "holds an empty list"),
        ("3", "holds a int"),
        ('{"images": [], "annotations": [{"id": 1, "bbox": []}]}', "holds a dict"),
        ('[{"id": 1, "caption": "A dog."}]', "records with 'id', 'caption' are in none of the formats"),
    ],
)
def test_a_file_in_no_known_format_is_refused(tmp_path, content, message):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        open_instructions(path)


def test_a_wrong_place_or_setting_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        open_instructions(tmp_path / "x.json")
    with pytest.raises(ConfigError, match="Use one of: auto, llava, aokvqa, okvqa, vqav2, vigc, dataset"):
        open_instructions(tmp_path, format="csv")
    with pytest.raises(InputError, match="cannot read the file"):
        open_instructions(tmp_path, format="llava")
    path = write(tmp_path, LLAVA)
    with pytest.raises(InputError, match="neither 'questions' nor 'annotations'"):
        open_instructions(path, format="okvqa")
    with pytest.raises(InputError, match="record 0 needs 'question'"):
        list(open_instructions(path, format="vigc"))


def test_a_format_that_is_named_is_the_one_that_reads(tmp_path):
    asked, _ = write_vqa(tmp_path, [question(1)], [annotation(1, "a")])
    finished(tmp_path / "out")
    places: dict[str, Path] = {
        "llava": write(tmp_path, LLAVA, "l.json"),
        "aokvqa": write(tmp_path, [AOKVQA], "a.json"),
        "vigc": write(tmp_path, [VIGC], "v.json"),
        "okvqa": asked,
        "dataset": tmp_path / "out",
    }
    for name, path in places.items():
        assert open_instructions(path).format == open_instructions(path, format=name).format == name
    assert {*places, "vqav2", "auto"} == set(FORMATS)


@pytest.mark.parametrize(
    "text",
    [
        "The cup is on the left.",
        "It stands left of the tree",
        "He waves with his right-hand glove.",
        "the leftmost of the three",
        "The car on the RIGHT behind the bus",
        "A dog to the left over there",
        "She looks rightward.",
        "What is on the right after the sign?",
        "The left open door is red.",
        "The bike has left and right mirrors.",
        "All right, but the boy is on the left side.",
        "It runs counter-clockwise.",
        "There is nothing left of the fence but grass.",
        "In the upper right, a clock.",
        "Two slices are left.",  # no side, but better one flip fewer
    ],
)
def test_left_and_right_are_sides(text):
    assert mentions_sides(text)


@pytest.mark.parametrize(
    "text",
    [
        "Some food is left over.",
        "He will leave right away.",
        "That is all right.",
        "The bag was left behind at the station.",
        "They stand right next to each other.",
        "The bus has left the stop.",
        "Is this the right tool for it?",
        "The driver yields the right of way.",
        "A table stands right in front of the sofa.",
        "There is not much left in the bottle.",
        "The copyright of the rightful owner and leftovers",
        "A cat sleeps.",
        "",
    ],
)
def test_other_meanings_of_the_words_are_no_sides(text):
    assert not mentions_sides(text)
