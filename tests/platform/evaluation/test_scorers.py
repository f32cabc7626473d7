"""Benchmarks' metrics against cases worked out by hand; every file is in the published form."""

from __future__ import annotations

import base64
import json

import pytest

from vigc.platform.evaluation import BENCHMARKS, benchmark
from vigc.platform.evaluation.choices import parse_letter
from vigc.platform.evaluation.intervals import as_scores, estimate
from vigc.platform.evaluation.items import Files, Metric, Reply
from vigc.platform.evaluation.llava_eval import marks
from vigc.platform.evaluation.pope import says_yes
from vigc.platform.evaluation.vqa_rules import accuracy, normalise
from vigc.platform.records import AnswerStyle, ConfigError, InputError


def values(scored, part=""):
    found = as_scores(scored)
    metrics = found["parts"][part] if part else found["scores"]
    return {name: round(one["value"], 4) for name, one in metrics.items() if one is not None}


def test_every_benchmark_reads_scores_and_names_its_headline():
    for name in BENCHMARKS:
        rules = benchmark(name)
        assert callable(rules.read)
        assert callable(rules.score)
        assert rules.HEADLINE
    with pytest.raises(ConfigError, match="okvqa"):
        benchmark("okvqq")


@pytest.mark.parametrize(
    ("answer", "normalised"),
    [
        ("A  Red\tball\n", "red ball"),
        ("two", "2"),
        ("None", "0"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("Mr. Li.", "mr li"),
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("t-shirt", "t shirt"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldntve", "couldntve"),
        ("somebody'd", "somebodyd"),
        ("Im", "im"),
        ("lets", "lets"),
        ("the an a", ""),
        ("what? now", "what now"),
    ],
)
def test_answers_are_normalised_as_the_challenge_does(answer, normalised):
    assert normalise(answer) == normalised


def test_only_the_first_32_points_vanish():
    assert normalise("a." * 40).count(".") == 8


@pytest.mark.parametrize(
    ("k", "official", "plain", "vigc"),
    [(0, 0, 0, 0), (1, 0.3, 1 / 3, 1 / 3), (2, 0.6, 2 / 3, 2 / 3), (3, 0.9, 1, 1), (4, 1, 1, 1), (10, 1, 1, 1)],
)
def test_soft_accuracies_of_k_of_ten_equal_answers(k, official, plain, vigc):
    equal = [True] * k + [False] * (10 - k)
    assert accuracy(equal, "official") == pytest.approx(official)
    assert accuracy(equal, "plain") == pytest.approx(plain)
    assert accuracy(equal, "vigc") == pytest.approx(vigc)


def vqa_files(folder, answers, **more):
    questions = {"data_subtype": "val2014", "questions": [{"image_id": 7, "question": "What?", "question_id": 70}]}
    annotation = {"image_id": 7, "question_id": 70, "question_type": "food", "answer_type": "other", "answers": answers}
    (folder / "q.json").write_text(json.dumps(questions))
    (folder / "a.json").write_text(json.dumps({"annotations": [annotation | more]}))
    return Files(folder / "q.json", str(folder / "a.json"), "coco")


@pytest.mark.parametrize(("name", "part"), [("okvqa", "food"), ("vqav2", "other")])
def test_okvqa_and_vqav2_print_all_variants(tmp_path, name, part):
    answers = [{"answer": "ride" if n < 2 else "swim", "raw_answer": "riding" if n < 2 else "swim"} for n in range(10)]
    rules, files = benchmark(name), vqa_files(tmp_path, answers)
    (item,) = rules.read(files, {})
    assert item.uri.endswith("coco/val2014/COCO_val2014_000000000007.jpg")
    assert item.style is AnswerStyle.SHORT
    scored = rules.score([(item, Reply("The ride."))], {})
    expected = {"official": 0.6, "plain": 0.6667, "vigc": 0.6667, "official_raw": 0.0}
    assert values(scored) == expected
    assert values(scored, part) == expected
    assert scored.item_scores == {"70": 0.6}
    assert values(rules.score([(item, Reply(error="missing"))], {}))["official"] == 0


def test_a_vqa_file_that_is_wrong_says_where(tmp_path):
    rules = benchmark("okvqa")
    with pytest.raises(InputError, match=r"a\.json: annotation 0 needs 'answers'"):
        rules.read(vqa_files(tmp_path, []), {})
    with pytest.raises(InputError, match=r"q\.json: question 0 has question_id 70, which is not in"):
        rules.read(vqa_files(tmp_path, [{"answer": "x"}], question_id=71), {})
    with pytest.raises(ConfigError, match="--annotations is missing"):
        rules.read(Files(tmp_path / "q.json"), {})
    with pytest.raises(InputError, match=r"no\.json: cannot read the file"):
        rules.read(Files(tmp_path / "no.json", str(tmp_path / "a.json")), {})


def aokvqa_file(folder, **changes):
    record = {
        "split": "val",
        "image_id": 5,
        "question_id": "q",
        "question": "Why?",
        "choices": ["rain", "sun", "snow", "wind"],
        "correct_choice_idx": 1,
        "direct_answers": ["sun", "sun", "the sun", "light", *["heat"] * 6],
        "difficult_direct_answer": False,
    }
    (folder / "a.json").write_text(
        json.dumps([record, record | {"question_id": "d", "difficult_direct_answer": True} | changes])
    )
    return Files(folder / "a.json", images="coco")


def test_aokvqa_by_answer_by_letter_and_by_probability(tmp_path):
    rules = benchmark("aokvqa")
    items = rules.read(aokvqa_file(tmp_path), {})
    assert [item.id for item in items] == ["q/direct", "q/letter", "q/rank", "d/direct", "d/letter", "d/rank"]
    assert "B. sun" in items[1].question
    replies = [
        Reply("sun"),
        Reply("B"),
        Reply(logprobs=[-3, -1, -2, -9]),
        Reply("rock"),
        Reply("it is snow"),
        Reply(logprobs=[-1, -2, -3, -4]),
    ]
    answered = list(zip(items, replies, strict=True))
    # direct: 2 exact of 10 -> 2/3, the difficult one left out; VIGC's: "the sun" is equal, too -> 1, over both.
    assert values(rules.score(answered, {"difficult": "direct"})) == {
        "direct": 0.6667,
        "direct_vigc": 0.5,
        "choice_ranked": 0.5,
        "choice_generated": 0.5,
    }
    other = values(rules.score(answered, {"difficult": "choice"}))
    assert other == {"direct": 0.3333, "direct_vigc": 0.5, "choice_ranked": 1, "choice_generated": 1}
    by_endpoint = [(item, Reply() if item.style is AnswerStyle.RANK else reply) for item, reply in answered]
    scored = rules.score(by_endpoint, {})
    assert "choice_ranked" not in values(scored)
    assert scored.counts["not_ranked"] == 1 + 1
    with pytest.raises(InputError, match="record 1 has correct_choice_idx 4, but 4 choices"):
        rules.read(aokvqa_file(tmp_path, correct_choice_idx=4), {})


@pytest.mark.parametrize(
    ("reply", "option"),
    [
        ("B", 1),
        ("(b", None),
        ("(B)", 1),
        ("The answer is B.", 1),
        ("A or B", None),
        ("A dog runs on the grass", 0),  # by its text: "dog"
        ("A cow stands over there", None),
        ("A", 0),
        ("it is the cat", 1),
        ("cat or dog", None),
        ("", None),
        ("E", None),
    ],
)
def test_the_ladder_that_reads_letters(reply, option):
    assert parse_letter(reply, ["dog", "cat", "bird"]) == option


def mmbench_file(folder, rows):
    header = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "l2-category", "image"]
    lines = ["\t".join(header), *("\t".join(str(row.get(name, "")) for name in header) for row in rows)]
    (folder / "m.tsv").write_text("\n".join(lines) + "\n")
    saved = {}

    def save(name, content):
        saved[name] = content
        return f"/eval/{name}"

    return Files(folder / "m.tsv", save=save), saved


PICTURE = base64.b64encode(b"\xff\xd8" + b"x" * 100).decode()
ROW = {"index": 1, "question": "Which?", "hint": "See.", "A": "dog", "B": "cat", "answer": "B", "image": PICTURE}


def test_mmbench_asks_all_rotations_and_wants_all_of_them_right(tmp_path):
    rules = benchmark("mmbench")
    rows = [
        ROW | {"l2-category": "logic_reasoning"},
        ROW | {"index": 2, "C": "bird", "l2-category": "finegrained_perception (cross-instance)", "image": "1"},
    ]
    files, saved = mmbench_file(tmp_path, rows)
    items = rules.read(files, {})
    assert [item.id for item in items] == ["1/0", "1/1", "2/0", "2/1", "2/2"]
    assert list(saved) == ["1.jpg"]
    assert {item.uri for item in items} == {"/eval/1.jpg"}
    assert items[1].question == "See.\nWhich?\nA. cat\nB. dog"
    replies = ["B", "cat", "B", "A", "neither one"]  # of the last, the right letter is C
    answered = [(item, Reply(text)) for item, text in zip(items, replies, strict=True)]
    scored = rules.score(answered, {})
    assert values(scored) == {"circular": 0.5, "vanilla": 1.0}
    assert values(scored, "LR")["circular"] == 1
    assert values(scored, "FP-C")["circular"] == 0
    assert scored.counts == {"unmatched": 1, "matched_by_judge": 0, "questions": 2}
    (case,) = rules.cases(answered, {})
    assert (case.id, case.num_tries) == ("2/2", 3)
    assert not case.is_usable("A, or B")
    judged = rules.score(answered, {"judged": {"2/2": "C"}})
    assert values(judged)["circular"] == 1
    assert values(rules.score(answered, {"judged": {"2/2": "Z"}}))["circular"] == 0.5


def test_mmbench_rows_that_are_rotations_are_grouped(tmp_path):
    rules = benchmark("mmbench")
    turned = ROW | {"index": 1_000_001, "A": "cat", "B": "dog", "answer": "A", "image": "1"}
    files, _ = mmbench_file(tmp_path, [ROW | {"l2-category": "coarse_perception"}, turned])
    items = rules.read(files, {})
    assert [item.id for item in items] == ["1", "1000001"]
    assert values(rules.score([(items[0], Reply("B")), (items[1], Reply("B"))], {})) == {"circular": 0, "vanilla": 1}


def test_mmbench_s_letters_are_those_of_the_file_where_an_option_is_missing(tmp_path):
    gap = {"A": "cat", "B": "", "C": "dog", "D": "horse", "answer": "C", "l2-category": "coarse_perception"}
    files, _ = mmbench_file(tmp_path, [ROW | gap, ROW | gap | {"index": 2, "B": "nan"}])
    (tmp_path / "m.tsv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "m.tsv").read_bytes())
    for item in benchmark("mmbench").read(files, {}):
        truth = json.loads(item.truth)
        assert truth["choices"][truth["correct"]] == "dog"
    with pytest.raises(InputError, match="row 1 has the answer 'B', but the options A, C, D"):
        benchmark("mmbench").read(mmbench_file(tmp_path, [ROW | gap | {"answer": "B"}])[0], {})


def test_an_mmbench_file_that_is_wrong_says_where(tmp_path):
    rules = benchmark("mmbench")
    for change, said in (
        ({"answer": ""}, "row 1 has the answer"),
        ({"image": "9"}, "row 1 has no image"),
        ({"image": "!" * 100}, "row 1 has an image that is not base64"),
        ({"index": "x"}, "row 1 needs 'index'"),
    ):
        with pytest.raises(InputError, match=said):
            rules.read(mmbench_file(tmp_path, [ROW | change])[0], {})
    (tmp_path / "m.tsv").write_text("index\tquestion\n")
    with pytest.raises(InputError, match="has no column A, B"):
        rules.read(Files(tmp_path / "m.tsv"), {})


@pytest.mark.parametrize(
    ("reply", "yes"), [("Yes.", True), ("No", False), ("There is not, yes", False), ("Sure. No", True), ("none", True)]
)
def test_pope_reads_replies_as_llava_does(reply, yes):
    assert says_yes(reply) is yes


def test_pope_figures_of_three_splits(tmp_path):
    rules = benchmark("pope")
    labels = ["yes", "yes", "yes", "no", "no"]
    for split in ("random", "popular", "adversarial"):
        lines = [
            {"question_id": n + 1, "image": "a.jpg", "text": "Is there a dog in the image?", "label": label}
            for n, label in enumerate(labels)
        ]
        (tmp_path / f"coco_pope_{split}.json").write_text("\n".join(map(json.dumps, lines)))
    items = rules.read(Files(tmp_path, images="coco"), {})
    assert len(items) == 15
    # tp 2, fn 1, fp 1, tn 1
    replies = ["Yes", "Yes, there is.", "No", "yes", "not that I see"] * 3
    scored = rules.score([(item, Reply(text)) for item, text in zip(items, replies, strict=True)], {})
    expected = {"accuracy": 0.6, "precision": 0.6667, "recall": 0.6667, "f1": 0.6667, "yes_share": 0.6}
    assert values(scored) == expected
    assert values(scored, "adversarial") == expected
    failed = rules.score([(item, Reply(error="gone")) for item in items], {})
    assert values(failed)["accuracy"] == 0
    (tmp_path / "coco_pope_random.json").write_text('{"question_id": 1, "image": "a", "text": "x", "label": "maybe"}')
    with pytest.raises(InputError, match=r"coco_pope_random\.json: line 1 needs 'label', yes or no"):
        rules.read(Files(tmp_path), {})


def test_chair_counts_what_descriptions_name(tmp_path):
    rules = benchmark("chair")
    document = {
        "images": [{"id": n, "file_name": f"{n}.jpg"} for n in (1, 2)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": c, "bbox": [0, 0, 1, 1], "iscrowd": 0}
            for n, c in ((1, 1), (1, 2), (2, 1))
        ],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "car"}],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(document))
    options = {}
    items = rules.read(Files(tmp_path / "annotations.json"), options)
    answered = [(items[0], Reply("A dog and a dog.")), (items[1], Reply("A dog beside a car."))]
    scored = rules.score(answered, options)
    # 4 mentions, 1 of them absent; 1 of 2 texts wrong; found: dog of {dog, car}, dog of {dog}
    assert values(scored) == {"chair_i": 0.25, "chair_s": 0.5, "recall": 0.6667, "mean_words": 5.0}


def llava_files(folder, category="conv"):
    question = {"question_id": 3, "image": "a.jpg", "text": "What is it?", "category": category}
    (folder / "q.jsonl").write_text(json.dumps(question))
    (folder / "r.jsonl").write_text(json.dumps({"question_id": 3, "text": "A dog.", "category": category}))
    box = {"category": "dog", "bbox": [0.1, 0.2, 0.3, 0.4]}
    (folder / "c.jsonl").write_text(
        json.dumps({"id": 1, "image": "a.jpg", "captions": ["dog runs"], "instances": [box]})
    )
    return Files(folder / "q.jsonl", references=str(folder / "r.jsonl"), context=str(folder / "c.jsonl"))


def test_llava_bench_in_both_orders_and_unparsable_marks_apart(tmp_path):
    rules = benchmark("llava")
    (item,) = rules.read(llava_files(tmp_path), {})
    answered = [(item, Reply("A cat."))]
    first, second = rules.cases(answered, {})
    assert first.prompt.index("A dog.") < first.prompt.index("A cat.")
    assert second.prompt.index("A cat.") < second.prompt.index("A dog.")
    assert "dog: [0.1, 0.2, 0.3, 0.4]" in first.prompt
    judged = {"3/reference_first": "8 6\nbecause", "3/candidate_first": "6, 10"}
    scored = rules.score(answered, {"judged": judged})
    assert values(scored) == {"reference_first": 0.75, "candidate_first": 0.6, "relative": 0.6667}
    assert values(scored, "conv")["relative"] == 0.6667
    half = rules.score(answered, {"judged": judged | {"3/candidate_first": "I cannot say"}})
    assert values(half) == {"reference_first": 0.75, "relative": 0.75}
    assert half.counts["unparsable"] == 1


@pytest.mark.parametrize(
    ("reply", "found"),
    [("8 6", (8, 6)), ("8.5, 7", (8.5, 7)), ("8/10 7/10", (8, 7)), ("\n9 4\nx", (9, 4)), ("9", None), ("", None)],
)
def test_marks_are_the_two_numbers_of_the_first_line(reply, found):
    assert marks(reply) == found


def test_in_the_wild_has_captions_and_its_own_categories(tmp_path):
    files = llava_files(tmp_path, "llava_bench_complex")
    (tmp_path / "c.jsonl").write_text(json.dumps({"id": 1, "image": "a.jpg", "caption": "A harbour."}))
    (item,) = benchmark("llava").read(files, {})
    assert (item.part, item.style) == ("complex", AnswerStyle.REASONING)


def test_own_questions_are_exact_and_vqa_where_there_are_answers_enough(tmp_path):
    rules = benchmark("questions")
    file = tmp_path / "q.jsonl"
    file.write_text(
        '{"image": "a.png", "question": "Colour?", "answers": ["red", "dark red", "crimson"], "type": "colour"}\n'
        '{"image": "b.png", "question": "How many?", "answers": ["2", "two", "3"], "id": "n"}\n'
    )
    items = rules.read(Files(file), {})
    assert items[0].uri == str(tmp_path / "a.png")
    scored = rules.score([(items[0], Reply("Red.")), (items[1], Reply("4"))], {})
    assert values(scored)["exact"] == 0.5
    assert values(scored, "colour")["exact"] == 1
    assert values(scored)["vqa_plain"] == pytest.approx(1 / 6, abs=1e-4)
    file.write_text('{"image": "a.png", "question": "Colour?"}\n')
    with pytest.raises(InputError, match=r"q\.jsonl: line 1 needs 'answers'"):
        rules.read(Files(file), {})
    file.write_text('{"image": "a.png", "question": "C?", "answers": ["x"], "id": 1}\n' * 2)
    with pytest.raises(InputError, match="line 2 has the id '1', as line 1 does"):
        rules.read(Files(file), {})
    file.write_text("{\n")
    with pytest.raises(InputError, match="line 1 is not JSON"):
        rules.read(Files(file), {})


def test_intervals_draw_images_and_not_questions():
    alone = Metric("x", [(f"{n}", float(n % 2), 1.0) for n in range(100)])
    together = Metric("x", [(f"{n // 10}", float(n // 10 % 2), 1.0) for n in range(100)])
    narrow, wide = estimate(alone), estimate(together)
    assert narrow["value"] == wide["value"] == 0.5
    assert 0.15 < narrow["high"] - narrow["low"] < 0.25
    assert wide["high"] - wide["low"] > 0.5
    assert estimate(alone) == narrow
    assert estimate(Metric("x", [("a", 1.0, 0.0)])) is None
