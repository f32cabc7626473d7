"""Where a sentence ends, decided early and never regretted."""

import random

import pytest

from vigc.model.sentences import Unit, find_end, split_sentences


@pytest.mark.parametrize(
    ("text", "first"),
    [
        (" The car is red. It is large.", " The car is red."),
        (" It is 3.5 m long. A dog sits.", " It is 3.5 m long."),
        (" Mr. Li waits. He is late.", " Mr. Li waits."),
        (" Is it big? Yes, it is.", " Is it big?"),
        (" Look out! A bus.", " Look out!"),
        (' He says "Stop." Then he goes.', ' He says "Stop."'),
        (" Cups, e.g. blue ones, stand there. Done.", " Cups, e.g. blue ones, stand there."),
        (" J. Smith walks. He waves.", " J. Smith walks."),
        (" Wait... maybe not. Go.", " Wait... maybe not."),
        (" 1. First a cat. 2. Then a dog.", " 1. First a cat."),
        ("两只猫。一条狗。", "两只猫。"),
    ],
)
def test_the_first_sentence_is_cut_where_a_reader_would_cut_it(text: str, first: str) -> None:
    end = find_end(text, Unit.SENTENCE, final=False)
    assert end is not None
    assert text[:end] == first


def test_the_reference_rule_cuts_at_the_first_dot_even_inside_a_number() -> None:
    text = " It is 3.5 m long."
    assert find_end(text, Unit.REFERENCE_SENTENCE, final=True) == text.index(".") + 1
    assert find_end(" Stop! Go", Unit.REFERENCE_SENTENCE, final=True) is None


def test_a_sentence_is_open_until_something_follows_or_the_text_is_final() -> None:
    assert find_end(" The car is red.", Unit.SENTENCE, final=False) is None
    assert find_end(" The car is red. ", Unit.SENTENCE, final=False) is None
    assert find_end(" The car is red.", Unit.SENTENCE, final=True) == len(" The car is red.")
    assert find_end(" The car is", Unit.SENTENCE, final=True) is None


def test_a_paragraph_ends_at_a_blank_line() -> None:
    text = "One. Two.\n\nThree."
    assert find_end(text, Unit.PARAGRAPH, final=False) == len("One. Two.")
    assert find_end("One. Two.\n\n", Unit.PARAGRAPH, final=False) is None
    assert split_sentences(text, Unit.PARAGRAPH) == ["One. Two.", "Three."]


def test_splitting_keeps_every_word_and_the_unfinished_tail() -> None:
    text = "A dog runs. Is it fast? Dr. Who says 2.5 m/s. And then"
    assert split_sentences(text) == ["A dog runs.", "Is it fast?", "Dr. Who says 2.5 m/s.", "And then"]
    assert split_sentences("   ") == []


@pytest.mark.parametrize("unit", [Unit.SENTENCE, Unit.REFERENCE_SENTENCE, Unit.PARAGRAPH])
def test_cutting_early_gives_the_same_unit_as_cutting_the_whole_text(unit: Unit) -> None:
    rng = random.Random(0)
    pieces = [
        "The car",
        " is red",
        ".",
        "..",
        "!",
        "?",
        " ",
        "\n\n",
        "\n",
        " 3",
        "5",
        " Mr",
        " e.g",
        '"',
        " It",
        " A",
        "dog",
        ")",
        "。",
        " U.S",
        " i",
    ]
    for _ in range(4000):
        text = "".join(rng.choice(pieces) for _ in range(rng.randint(1, 14)))
        whole = find_end(text, unit, final=True)
        for length in range(len(text) + 1):
            early = find_end(text[:length], unit, final=False)
            if early is not None:
                assert early == whole, (text, text[:length])
                break
