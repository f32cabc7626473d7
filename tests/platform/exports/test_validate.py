from __future__ import annotations

import json
import tracemalloc

import pytest
from datasets import draw
from measured_dataset import measured_dataset
from PIL import Image

from vigc.jobs.dataset.filter import read_evaluation
from vigc.platform.exports import Options, export
from vigc.platform.exports.validate import EvaluationImages, Rule, ValidateOptions, validate
from vigc.platform.records import InputError

HUMAN, GPT = {"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "That."}
LLAVA = {"id": "1", "image": "a.png", "conversations": [HUMAN, GPT]}
PARTS = [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}, {"type": "text", "text": "What?"}]
OPENAI = {"messages": [{"role": "user", "content": PARTS}, {"role": "assistant", "content": "That."}]}
PAIR = {
    "images": ["a.png"],
    "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}],
    "chosen": [{"role": "assistant", "content": "That."}],
    "rejected": [{"role": "assistant", "content": "This."}],
}
GOOD = {
    "LLaVA": LLAVA,
    "LLaVA, text only": {"id": "1", "conversations": [{"from": "human", "value": "What?"}, GPT]},
    "LLaVA, several turns": {**LLAVA, "conversations": [HUMAN, GPT, {"from": "human", "value": "And?"}, GPT]},
    "LLaVA, two images": {
        **LLAVA,
        "image": ["a.png", "b.png"],
        "conversations": [{"from": "human", "value": "<image> and <image>?"}, GPT],
    },
    "ShareGPT": {"conversations": [HUMAN, GPT], "images": ["a.png"], "system": "Be kind."},
    "OpenAI": OPENAI,
    "OpenAI, with a system message": {
        "messages": [{"role": "system", "content": "Be kind."}, *OPENAI["messages"]],
    },
    "Qwen": {
        "messages": [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "That."}],
        "images": ["a.png"],
    },
    "preference": PAIR,
}


def found(tmp_path, *rows, checks=None, lines=False):
    path = tmp_path / ("x.jsonl" if lines else "x.json")
    path.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows))
    return validate(str(path), checks)


@pytest.mark.parametrize("lines", [False, True], ids=["list", "lines"])
@pytest.mark.parametrize("name", GOOD)
def test_a_good_row_of_any_layout_has_no_fault(tmp_path, name, lines):
    result = found(tmp_path, GOOD[name], lines=lines)
    assert (result.is_ok, result.found, result.num_rows) == (True, {}, 1)
    assert result.num_images == {"LLaVA, text only": 0, "LLaVA, two images": 2}.get(name, 1)


@pytest.mark.parametrize(
    ("row", "rule", "words"),
    [
        (3, Rule.UNREADABLE, "not an object"),
        ({"text": "x"}, Rule.UNREADABLE, "neither 'conversations' nor"),
        ({**LLAVA, "conversations": "x"}, Rule.UNREADABLE, "not a list of turns"),
        ({**LLAVA, "conversations": []}, Rule.UNREADABLE, "not a list of turns"),
        ({**LLAVA, "conversations": [HUMAN, {"value": "x"}]}, Rule.UNREADABLE, "does not say who speaks"),
        ({**LLAVA, "image": 7}, Rule.UNREADABLE, "an image is int"),
        ({**LLAVA, "conversations": [HUMAN]}, Rule.TURNS, "the user speaks last"),
        ({**LLAVA, "conversations": [GPT, HUMAN]}, Rule.TURNS, "the assistant speaks first"),
        ({**LLAVA, "conversations": [HUMAN, GPT, GPT]}, Rule.TURNS, "turns 1 and 2 are both the assistant's"),
        ({**LLAVA, "conversations": [HUMAN, GPT | {"from": "bob"}]}, Rule.TURNS, "'bob' speaks"),
        ({**LLAVA, "conversations": [HUMAN, GPT | {"value": " "}]}, Rule.EMPTY, "turn 1 (assistant) says nothing"),
        ({**LLAVA, "conversations": [HUMAN, GPT | {"value": None}]}, Rule.EMPTY, "turn 1 (assistant) says nothing"),
        ({**LLAVA, "conversations": [HUMAN | {"value": "What?"}, GPT]}, Rule.MARKS, "0 marks for 1 images"),
        ({**LLAVA, "image": None}, Rule.MARKS, "1 marks for 0 images"),
        ({**LLAVA, "conversations": [HUMAN, GPT | {"value": "<image> x"}]}, Rule.MARKS, "not the user's"),
        ({**PAIR, "rejected": PAIR["chosen"]}, Rule.SAME, "equal"),
        ({**PAIR, "rejected": PAIR["prompt"]}, Rule.TURNS, "not the assistant's"),
        ({**PAIR, "images": []}, Rule.MARKS, "1 marks for 0 images"),
    ],
)
def test_what_would_trip_a_trainer_is_found_with_its_row(tmp_path, row, rule, words):
    result = found(tmp_path, {**LLAVA, "id": "0"}, row)
    assert not result.is_ok
    assert result.found[rule].rows == [1]
    assert words in result.found[rule].example


def test_repeated_ids_and_rows_are_notes_and_no_faults(tmp_path):
    other = {**LLAVA, "image": "b.png"}
    result = found(tmp_path, LLAVA, other, LLAVA)
    assert result.is_ok
    assert (result.found[Rule.REPEATED_ID].rows, result.found[Rule.REPEATED].rows) == ([1, 2], [2])
    assert result.found[Rule.REPEATED].example == "as in row 0"


def test_a_broken_line_is_one_fault_and_the_others_are_read(tmp_path):
    (tmp_path / "x.jsonl").write_text(f"{json.dumps(LLAVA)}\n{{torn\n\n{json.dumps(OPENAI)}\n")
    result = validate(str(tmp_path / "x.jsonl"))
    assert (result.num_rows, result.found[Rule.UNREADABLE].rows) == (3, [1])


def test_a_list_that_is_cut_off_says_after_which_row(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps([LLAVA, LLAVA])[:-20])
    result = validate(str(tmp_path / "x.json"))
    assert (result.num_rows, result.found[Rule.UNREADABLE].rows) == (2, [1])
    assert "row[1]" in result.found[Rule.UNREADABLE].example


@pytest.mark.parametrize("content", ["", " \n"])
def test_what_is_no_file_of_rows_is_an_error(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(InputError, match="empty"):
        validate(str(tmp_path / "x.json"))
    with pytest.raises(InputError):
        validate(str(tmp_path))


def test_images_are_looked_for_and_opened(tmp_path):
    draw(tmp_path / "images" / "good.png", 1)
    (tmp_path / "images" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot much")
    rows = [{**LLAVA, "id": name, "image": name} for name in ("good.png", "broken.png", "gone.png")]
    folder = str(tmp_path / "images")

    by_name = found(tmp_path, *rows, checks=ValidateOptions(folder=folder))
    assert {rule: one.rows for rule, one in by_name.found.items()} == {Rule.MISSING: [2]}
    for num_open in (None, 10):
        opened = found(tmp_path, *rows, checks=ValidateOptions(folder=folder, num_open=num_open))
        assert {rule: one.rows for rule, one in opened.found.items()} == {Rule.MISSING: [2], Rule.BROKEN: [1]}
        assert opened.num_opened == 3
    assert found(tmp_path, *rows, checks=ValidateOptions(folder=folder, num_open=1)).num_opened == 1


def test_evaluation_images_are_found_by_name_and_by_looks(tmp_path):
    big = draw(tmp_path / "images" / "one.png", 5, (400, 300))
    draw(tmp_path / "images" / "two.png", 6, (400, 300))
    (tmp_path / "evaluation").mkdir()
    Image.open(big).resize((320, 240)).convert("RGB").save(tmp_path / "evaluation" / "other_name.jpg", quality=80)
    (tmp_path / "ids.txt").write_text("two\n")
    rows = [{**LLAVA, "id": name, "image": name} for name in ("one.png", "two.png")]
    checks = {"folder": str(tmp_path / "images"), "num_open": None}

    by_looks = EvaluationImages(hashes=read_evaluation(str(tmp_path / "evaluation")).hashes)
    assert found(tmp_path, *rows, checks=ValidateOptions(**checks, evaluation=by_looks)).found[
        Rule.EVALUATION
    ].rows == [0]
    by_name = EvaluationImages(str(tmp_path / "ids.txt"))
    assert found(tmp_path, *rows, checks=ValidateOptions(evaluation=by_name)).found[Rule.EVALUATION].rows == [1]


@pytest.mark.parametrize("options", [{"format": "openai", "options": Options(embed=True)}, {"format": "preference"}])
def test_pictures_that_lie_in_the_file_are_opened(tmp_path, options):
    target = tmp_path / ("x.jsonl" if options["format"] == "openai" else "x")
    export(measured_dataset(tmp_path), out=target, **options)
    result = validate(str(target), ValidateOptions(num_open=None))
    assert (result.is_ok, result.num_rows, result.num_opened) == (True, 3, 3)


def test_a_file_of_many_rows_takes_little_memory(tmp_path):
    """A list of 15 MB, of which a megabyte or two is held at once."""
    text = json.dumps({**LLAVA, "conversations": [HUMAN, GPT | {"value": "That. " * 500}]})
    with open(tmp_path / "x.json", "w") as file:
        file.write("[" + ",\n".join([text] * 5_000) + "]")
    tracemalloc.start()
    result = validate(str(tmp_path / "x.json"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert result.num_rows == 5_000
    assert peak < 10 * 2**20


def test_a_name_may_hold_what_marks_a_part_of_a_file(tmp_path):
    draw(tmp_path / "cat #1.png", seed=1)
    row = LLAVA | {"image": "cat #1.png"}
    assert found(tmp_path, row, checks=ValidateOptions(folder=str(tmp_path))).is_ok
    gone = found(tmp_path, row | {"image": "cat #2.png"}, checks=ValidateOptions(folder=str(tmp_path)))
    assert gone.found[Rule.MISSING].example.endswith("cat #2.png")


def test_preference_pairs_of_llama_factory_are_compared(tmp_path):
    asked = [{"from": "human", "value": "<image>Which?"}]

    def pair(chosen, rejected):
        answers = {name: {"from": "gpt", "value": text} for name, text in (("chosen", chosen), ("rejected", rejected))}
        return {"conversations": asked, "images": ["a.png"], **answers}

    result = found(tmp_path, pair("left", "right"), pair("same", "same"))
    assert {rule: one.rows for rule, one in result.found.items()} == {Rule.SAME: [1]}
