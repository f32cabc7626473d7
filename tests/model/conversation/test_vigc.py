"""VIG and VIC against a scripted model, worked out by hand."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from vigc.model.completion import Completion, Request
from vigc.model.conversation.policy import POLICIES, Policy, PromptStyle, QformerReads, make_policy
from vigc.model.conversation.vigc import answer_question, converse, parse
from vigc.model.prompts import load_pack
from vigc.model.sentences import Unit, find_end
from vigc.platform.records import ConfigError, Conversation, Kind, Stop, Verdict

PACK = load_pack()
VIG = " Question: What is there? Answer: A red car and a dog."
INSTRUCTION = PACK.kind(Kind.DETAIL).instruction


class Script:
    """Answers the first request with VIG's text and every later one with what is left of `answer` (or a function of the
    request), cut as asked.
    """

    def __init__(self, answer: str | Callable[[Request, int], str], vig: str = VIG, lazy: bool = False) -> None:
        self.answer, self.vig, self.lazy = answer, vig, lazy
        self.requests: list[Request] = []

    async def __call__(self, request: Request) -> Completion:
        await asyncio.sleep(0)
        self.requests.append(request)
        if self.vig and len(self.requests) == 1:
            return Completion(self.vig, Stop.END, 12, -0.5)
        text = (
            self.answer[len(request.prefix) :]
            if isinstance(self.answer, str)
            else self.answer(request, len(self.requests) - 1)
        )
        # An engine may cut at the unit's end or, like the reference, decode everything.
        end = None if self.lazy else find_end(text, request.until, final=False)
        return Completion(text, Stop.END, 5, -0.1) if end is None else Completion(text[:end], Stop.SENTENCE, 5, -0.1)


def run(script: Script, kind: Kind = Kind.DETAIL, **options: Any) -> Conversation:
    base = options.pop("base", "paper")
    return asyncio.run(converse(script, PACK, kind, make_policy(base, **options), seed_key="0/a.jpg"))


THREE = " A red car stands there. It is 3.5 m long. A tree is near."


@pytest.mark.parametrize("lazy", [False, True])
def test_vic_goes_on_sentence_by_sentence_until_the_model_ends(lazy: bool) -> None:
    script = Script(THREE, lazy=lazy)
    made = run(script)
    assert (made.question, made.vig_answer, made.answer) == ("What is there?", "A red car and a dog.", THREE.strip())
    assert [s.kept for s in made.steps] == ["A red car stands there.", "It is 3.5 m long.", "A tree is near."]
    assert [s.stop for s in made.steps] == [Stop.SENTENCE, Stop.SENTENCE, Stop.END]
    assert [s.text for s in made.sentences] == ["A red car stands there.", "It is 3.5 m long.", "A tree is near."]
    assert made.num_tokens == 12 + 3 * 5
    assert made.status is Verdict.KEPT


def test_each_step_feeds_instruction_question_and_answer_so_far_to_both_readers() -> None:
    script = Script(THREE)
    run(script)
    prompt = f"{INSTRUCTION} Question: What is there? Answer:"
    assert [(r.prompt, r.prefix) for r in script.requests] == [
        (INSTRUCTION, ""),
        (prompt, ""),
        (prompt, " A red car stands there."),
        (prompt, " A red car stands there. It is 3.5 m long."),
    ]
    assert [r.qformer_text for r in script.requests] == [r.prompt + r.prefix for r in script.requests]


def test_the_shipped_policy_makes_four_calls_and_cuts_numbers() -> None:
    # Q2, Q3: "3.5" is cut at its dot, there is no early end, and what comes after the fourth piece is lost.
    script = Script(" It is 3.5 m long. A tree. A dog. A cat. A bird.", lazy=True)
    made = run(script, base="shipped")
    assert made.answer == "It is 3.5 m long. A tree. A dog."
    assert [s.kept for s in made.steps] == ["It is 3.", "5 m long.", "A tree.", "A dog."]
    assert made.one_shot_answer == "It is 3.5 m long. A tree. A dog. A cat. A bird."
    assert all(r.num_beams == 5 and r.repetition_penalty == 1.5 and r.max_tokens == 249 for r in script.requests)


def test_the_shipped_policy_repeats_an_empty_unit_and_keeps_the_empty_answer() -> None:
    script = Script(lambda request, step: " no mark here")
    made = run(script, base="shipped")
    assert made.answer == ""
    assert [s.kept for s in made.steps] == [""] * 4
    assert made.status is Verdict.KEPT  # Q2: such records were written
    made = run(Script(lambda request, step: ""), base="paper")
    assert (made.status, made.reasons, len(made.steps)) == (Verdict.REJECTED, ["empty_answer"], 1)


def test_a_tail_without_an_end_mark_is_kept_or_dropped_as_the_policy_says() -> None:
    text = " A car. And a tree"
    assert run(Script(text)).answer == "A car. And a tree"
    assert run(Script(text), keep_tail=False).answer == "A car."


def test_a_sentence_broken_off_by_the_token_limit_is_not_kept() -> None:
    class Limited(Script):
        async def __call__(self, request: Request) -> Completion:
            completion = await super().__call__(request)
            return Completion(" The tree has 3.", Stop.LENGTH, 250, -0.1) if request.prefix else completion

    made = run(Limited(THREE))
    assert made.answer == "A red car stands there."
    assert made.steps[-1].stop is Stop.LENGTH


def test_the_last_step_can_keep_everything() -> None:
    script = Script(" One. Two. Three. Four. Five.", lazy=True)
    made = run(script, base="shipped", last_step_keeps_all=True)  # Q23
    assert made.answer == "One. Two. Three. Four. Five."
    assert script.requests[-1].until is Unit.WHOLE


def test_paragraphs_can_be_the_unit() -> None:
    text = " One. Two.\n\nThree. Four.\n\nFive."
    made = run(Script(text), unit=Unit.PARAGRAPH)
    assert [s.kept for s in made.steps] == ["One. Two.", "Three. Four.", "Five."]
    assert made.answer == text.strip()


@pytest.mark.parametrize("vig", [" Question: What is there? Answer:", VIG])  # an engine may decode on
def test_the_lean_policy_wants_no_answer_of_vigs_and_four_sentences_of_vics(vig: str) -> None:
    script = Script(" One is. Two are. Three are. Four are. Five are.", vig=vig)
    made = run(script, base="lean")
    assert [request.stop_at for request in script.requests] == [PACK.answer_tag, "", "", "", ""]
    assert (made.question, made.vig_answer) == ("What is there?", "")
    assert made.answer == "One is. Two are. Three are. Four are."
    assert made.status is Verdict.KEPT


@pytest.mark.parametrize("vig", [" What is there? Answer:", " Question: What is there?", " Question: Answer:", ""])
def test_without_a_question_in_front_of_its_answer_the_lean_policy_rejects(vig: str) -> None:
    script = Script(THREE, vig=vig or " ")
    made = run(script, base="lean")
    assert (made.status, made.reasons, made.vig_answer, len(script.requests)) == (
        Verdict.REJECTED,
        ["unparsed"],
        vig.strip(),
        1,
    )


def test_one_shot_keeps_the_whole_first_vic_answer_beside_the_iterated_one() -> None:
    def look_again(request: Request, step: int) -> str:
        return " A red car. A dog." if not request.prefix else " No dog."

    script = Script(look_again)
    made = run(script, one_shot=True)
    assert (made.vig_answer, made.one_shot_answer, made.answer) == (
        "A red car and a dog.",
        "A red car. A dog.",
        "A red car. No dog.",
    )
    assert script.requests[1].until is Unit.WHOLE
    assert run(Script(look_again)).one_shot_answer is None


def test_a_sentence_that_comes_a_third_time_in_a_row_ends_the_answer() -> None:
    made = run(Script(lambda request, step: " A dog. Another"))
    assert made.answer == "A dog. A dog."
    assert len(made.steps) == 3


def test_an_answer_without_end_stops_at_the_step_limit() -> None:
    made = run(Script(lambda request, step: f" Dog {step}. Another"), max_steps=5)
    assert [s.kept for s in made.steps] == [f"Dog {i}." for i in range(1, 6)]


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        (" Question: a? Answer: b.", ("a?", "b.")),
        ("Question: x Question: a? Answer: b.", ("a?", "b.")),  # Q4: the last question tag counts
        ("Question: a? Answer: b. Answer: c.", None),
        ("Question: a?", None),
        ("What? Answer: b.", None),
        ("Question: Answer: b.", None),
        ("Question: a? Answer: ", None),
    ],
)
def test_vig_output_is_a_question_and_exactly_one_answer(text: str, pair: tuple[str, str] | None) -> None:
    assert parse(text, PACK) == pair


def test_output_that_does_not_parse_is_rejected_with_its_text_and_costs_no_vic() -> None:
    script = Script(THREE, vig=" I see a dog.")
    made = run(script)
    assert (made.status, made.reasons, made.vig_answer, made.answer) == (
        Verdict.REJECTED,
        ["unparsed"],
        "I see a dog.",
        "",
    )
    assert len(script.requests) == 1


def test_the_bare_question_can_be_vics_prompt() -> None:
    script = Script(THREE)
    run(script, prompt_style=PromptStyle.VIC)
    assert script.requests[1].prompt == "What is there?"


@pytest.mark.parametrize(("reads", "seen"), [(QformerReads.QUESTION, "{prompt}"), (QformerReads.NOTHING, "")])
def test_the_ablations_hide_the_answer_so_far_from_the_qformer(reads: QformerReads, seen: str) -> None:
    script = Script(THREE)
    run(script, qformer_reads=reads)
    prompt = f"{INSTRUCTION} Question: What is there? Answer:"
    assert {r.qformer_text for r in script.requests[1:]} == {seen.format(prompt=prompt)}
    assert script.requests[-1].prefix


def test_knowledge_starts_from_a_sampled_first_word_and_gives_one_short_answer() -> None:
    def answer(request: Request, step: int) -> str:
        return " Answer: sitting" if step == 1 else ""

    words = PACK.kind(Kind.KNOWLEDGE).first_words
    drawn = set()
    for image in range(40):
        script = Script(answer, vig=" is the chair for? Answer: resting")
        made = asyncio.run(converse(script, PACK, Kind.KNOWLEDGE, Policy(), seed_key=f"0/{image}"))
        word = next(w for w in words if script.requests[0].prompt.endswith(f"Question: {w}"))
        drawn.add(word)
        assert made.question == f"{word} is the chair for?"
        assert (made.vig_answer, made.answer) == ("resting", "sitting")
        assert script.requests[1].prompt == f"Question: {made.question} Short answer:"
        assert script.requests[1].max_tokens == 10
        assert len(script.requests) == 2
    assert drawn == set(words)


def test_seeds_depend_on_run_image_kind_and_step_only() -> None:
    def seeds(key: str, kind: Kind) -> list[int]:
        script = Script(THREE)
        asyncio.run(converse(script, PACK, kind, Policy(), seed_key=key))
        return [r.seed for r in script.requests]

    first = seeds("0/a.jpg", Kind.DETAIL)
    assert first == seeds("0/a.jpg", Kind.DETAIL)
    others = [seeds("1/a.jpg", Kind.DETAIL), seeds("0/b.jpg", Kind.DETAIL), seeds("0/a.jpg", Kind.REASONING)]
    assert len({s for run in (first, *others) for s in run}) == 4 * len(first)


def test_a_given_question_is_answered_by_vic_alone() -> None:
    script = Script(THREE, vig="")
    made = asyncio.run(answer_question(script, PACK, "What is there?", Policy()))
    assert (made.question, made.vig_answer, made.answer) == ("What is there?", "", THREE.strip())


def test_policies_refuse_what_they_do_not_know() -> None:
    with pytest.raises(ConfigError, match="unknown; there are paper, lean, verified, shipped"):
        make_policy("best")
    with pytest.raises(ConfigError, match="option unknown"):
        make_policy("paper", colour="red")
    with pytest.raises(ConfigError, match="at least 1"):
        make_policy("paper", max_steps=0)
    assert POLICIES["paper"] == Policy()
