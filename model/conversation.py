"""VIG, then VIC: one conversation about one image, as a coroutine.

VIG asks a question and answers it. VIC answers again, one unit at a time: each step feeds instruction, question and the
answer so far back through the Q-Former, so the model looks at the image anew before it goes on (arXiv 2308.12714 §3.2).
There is no batching and no torch here: `complete` belongs to one image and is answered by an engine, which runs
hundreds of these at once.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from vigc.model.completion import Complete, Completion, Request, derive_seed
from vigc.model.prompts import PromptPack
from vigc.model.sentences import Unit, find_end, split_sentences
from vigc.platform.records import ConfigError, Conversation, CorrectionStep, Kind, Sentence, Stop, Verdict


class PromptStyle(StrEnum):
    """What VIC reads in front of the answer so far."""

    VIG = "vig"  # instruction and tagged question, as the authors' generation does
    VIC = "vic"  # the bare question, as VIC was trained (quirk Q6)


class QformerReads(StrEnum):
    """The ablations of the iterative Q-Former: only PROMPT makes VIC look anew at each step."""

    PROMPT = "prompt"  # all that the language model reads, answer so far included
    QUESTION = "question"  # the prompt without the answer so far
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Policy:
    """Every choice the method leaves open (facts §1.8 lists the quirks). The defaults are the preset `paper`."""

    name: str = "paper"
    unit: Unit = Unit.SENTENCE
    max_steps: int = 16
    stop_when_done: bool = True  # False: always `max_steps` calls, as the authors' code (Q3)
    keep_tail: bool = True  # an end without an end mark is kept; False: it is an empty unit (Q2)
    last_step_keeps_all: bool = False  # Q23
    keep_empty_answers: bool = False  # True: a record whose answer is empty still counts (Q2)
    vig_answer: bool = True  # False: VIG stops where its answer begins, which saves most of its tokens
    one_shot: bool = False  # also keep VIC's whole first answer (Q5), at the cost of decoding it
    prompt_style: PromptStyle = PromptStyle.VIG
    qformer_reads: QformerReads = QformerReads.PROMPT
    max_tokens: int = 250  # per call
    max_tokens_short: int = 10  # of a knowledge answer
    temperature: float = 0.0
    top_p: float = 1.0
    num_beams: int = 1
    repetition_penalty: float = 1.0
    length_penalty: float = 1.0


POLICIES = {
    "paper": Policy(),
    # The least that gives a question and a corrected answer: no answer of VIG's to compare with, four sentences.
    "lean": Policy(name="lean", vig_answer=False, max_steps=4),
    # Bug for bug what the authors' generation configs do (facts §1.7): 249 new tokens are what max_len 250 gave (Q10).
    "shipped": Policy(
        name="shipped",
        unit=Unit.REFERENCE_SENTENCE,
        max_steps=4,
        stop_when_done=False,
        keep_tail=False,
        keep_empty_answers=True,
        one_shot=True,
        max_tokens=249,
        max_tokens_short=9,
        num_beams=5,
        repetition_penalty=1.5,
    ),
}


def make_policy(name: str, **changes: object) -> Policy:
    """A preset with changes.

    Raises:
        ConfigError: an unknown preset or option, or a value out of range.
    """
    if name not in POLICIES:
        raise ConfigError(f"The policy {name!r} is unknown; there are {', '.join(POLICIES)}.")
    try:
        policy = replace(POLICIES[name], **changes)  # type: ignore[arg-type]
    except TypeError as error:
        raise ConfigError(
            f"Policy option unknown: {error}. Options are {', '.join(Policy.__dataclass_fields__)}."
        ) from error
    if policy.max_steps < 1 or policy.max_tokens < 1 or policy.max_tokens_short < 1 or policy.num_beams < 1:
        raise ConfigError("max_steps, max_tokens, max_tokens_short and num_beams must be at least 1.")
    if policy.temperature < 0 or not 0 < policy.top_p <= 1:
        raise ConfigError(
            f"temperature must be at least 0 and top_p in (0, 1], not {policy.temperature} and {policy.top_p}."
        )
    return policy


def parse(text: str, pack: PromptPack) -> tuple[str, str] | None:
    """Question and answer of VIG's output: behind the last question tag, around exactly one answer tag (Q4); None where
    that fails.
    """
    _, tag, behind = text.rpartition(pack.question_tag)
    question, *answers = behind.split(pack.answer_tag)
    if not tag or len(answers) != 1 or not question.strip() or not answers[0].strip():
        return None
    return question.strip(), answers[0].strip()


def parse_question(text: str, pack: PromptPack) -> tuple[str, str] | None:
    """The same where VIG's answer is not wanted: the question alone, which ends at the first answer tag."""
    begun, tag, _ = text.partition(pack.answer_tag)
    _, asked, question = begun.rpartition(pack.question_tag)
    return (question.strip(), "") if tag and asked and question.strip() else None


@dataclass(frozen=True, slots=True)
class Question:
    """What VIG made: VIC begins with it."""

    question: str
    vig_answer: str  # "" where nobody asked for one


Listener = Callable[[Question | CorrectionStep], None]


async def converse(
    complete: Complete,
    pack: PromptPack,
    kind: Kind,
    policy: Policy,
    *,
    seed_key: str = "",
    listen: Listener | None = None,
) -> Conversation:
    """Runs one conversation to its end.

    Args:
        seed_key: makes sampling depend on the run, image and kind only, e.g. "0/train/a.jpg".
        listen: called with the question and then with each VIC step, as they are made.
    """
    dialogue = _Dialogue(complete, policy, f"{seed_key}/{kind}", listen)
    if kind is Kind.KNOWLEDGE:
        return await _knowledge(dialogue, pack)
    instruction = pack.vig_prompt(kind)
    text, pair = await _vig(dialogue, pack, instruction)
    if pair is None:
        return dialogue.rejected(kind, instruction, text)
    question, vig_answer = pair
    dialogue.tell(Question(question, vig_answer))
    prompt = pack.vic_prompt(instruction, question) if policy.prompt_style is PromptStyle.VIG else question
    answer = await _correct(dialogue, prompt)
    return dialogue.conversation(kind, instruction, question, vig_answer, answer)


async def answer_question(
    complete: Complete,
    pack: PromptPack,
    question: str,
    policy: Policy,
    *,
    kind: Kind = Kind.CONVERSATION,
    seed_key: str = "",
    listen: Listener | None = None,
) -> Conversation:
    """VIC alone, for a question that is already there; the VIG answer stays empty."""
    dialogue = _Dialogue(complete, policy, f"{seed_key}/{kind}/{question}", listen)
    dialogue.tell(Question(question, ""))
    instruction = pack.vig_prompt(kind)
    prompt = pack.vic_prompt(instruction, question) if policy.prompt_style is PromptStyle.VIG else question
    answer = await _correct(dialogue, prompt)
    return dialogue.conversation(kind, instruction, question, "", answer)


async def _vig(
    dialogue: _Dialogue, pack: PromptPack, instruction: str, begun: str = ""
) -> tuple[str, tuple[str, str] | None]:
    """VIG's text, behind what the instruction began, and its question and answer, if it holds them."""
    wants_answer = dialogue.policy.vig_answer
    first = await dialogue.ask(instruction, stop_at="" if wants_answer else pack.answer_tag)
    text = begun + first.text
    return text, parse(text, pack) if wants_answer else parse_question(text, pack)


async def _correct(dialogue: _Dialogue, prompt: str) -> str:
    """VIC: the answer, unit by unit."""
    policy = dialogue.policy
    answer = ""  # raw: every unit with the blank it was decoded with
    for number in range(policy.max_steps):
        keep_all = policy.last_step_keeps_all and number == policy.max_steps - 1
        whole = keep_all or (policy.one_shot and number == 0)
        piece = await dialogue.ask(prompt, answer, Unit.WHOLE if whole else policy.unit)
        if policy.one_shot and number == 0:
            dialogue.one_shot_answer = piece.text.strip()
        kept, goes_on = (piece.text, False) if keep_all else _cut(piece, policy)
        if policy.stop_when_done and kept.strip() and [s.kept for s in dialogue.steps[-2:]] == [kept.strip()] * 2:
            kept, goes_on = "", False  # the same for the third time: decoding has run into a loop
        answer += kept
        stop = (Stop.PARAGRAPH if policy.unit is Unit.PARAGRAPH else Stop.SENTENCE) if goes_on else piece.stop
        dialogue.record(CorrectionStep(piece.text, kept.strip(), stop, piece.num_tokens, piece.mean_logprob))
        if policy.stop_when_done and not goes_on:
            break
    return answer.strip()


def _cut(piece: Completion, policy: Policy) -> tuple[str, bool]:
    """What of a piece joins the answer, and whether the model has more to say."""
    end = find_end(piece.text, policy.unit, final=piece.stop is not Stop.LENGTH)
    if end is None:
        return (piece.text if policy.keep_tail and piece.stop is Stop.END else ""), False
    # The reference rule cuts at the mark itself, before anything can be known of what follows.
    goes_on = policy.unit is Unit.REFERENCE_SENTENCE or piece.stop is not Stop.END or bool(piece.text[end:].strip())
    return piece.text[:end], goes_on


async def _knowledge(dialogue: _Dialogue, pack: PromptPack) -> Conversation:
    """The knowledge route (facts §1.3): a question from a sampled first word, then one short answer to it; VIC does not
    iterate here.
    """
    words = pack.kind(Kind.KNOWLEDGE).first_words
    rng = random.Random(derive_seed(dialogue.key, "first word"))
    word = rng.choices(list(words), list(words.values()))[0] if words else ""
    instruction = pack.vig_prompt(Kind.KNOWLEDGE, word)
    text, pair = await _vig(dialogue, pack, instruction, f"{pack.question_tag} {word}" if word else "")
    if pair is None:
        return dialogue.rejected(Kind.KNOWLEDGE, instruction, text)
    question, vig_answer = pair
    dialogue.tell(Question(question, vig_answer))
    piece = await dialogue.ask(pack.short_answer.format(question=question), max_tokens=dialogue.policy.max_tokens_short)
    answer = re.sub(r"^\s*answer:", "", piece.text, flags=re.IGNORECASE).strip()
    dialogue.record(CorrectionStep(piece.text, answer, piece.stop, piece.num_tokens, piece.mean_logprob))
    return dialogue.conversation(Kind.KNOWLEDGE, instruction, question, vig_answer, answer)


class _Dialogue:
    """One conversation's bookkeeping: numbers its requests, counts its tokens, keeps its steps."""

    def __init__(self, complete: Complete, policy: Policy, key: str, listen: Listener | None) -> None:
        self.complete, self.policy, self.key, self.listen = complete, policy, key, listen
        self.steps: list[CorrectionStep] = []
        self.one_shot_answer: str | None = None
        self.num_requests = self.num_tokens = 0

    async def ask(
        self,
        prompt: str,
        answer: str = "",
        until: Unit = Unit.WHOLE,
        max_tokens: int | None = None,
        stop_at: str = "",
    ) -> Completion:
        policy = self.policy
        seen = {QformerReads.PROMPT: prompt + answer, QformerReads.QUESTION: prompt, QformerReads.NOTHING: ""}[
            policy.qformer_reads
        ]
        request = Request(
            qformer_text=seen,
            prompt=prompt,
            prefix=answer,
            until=until,
            max_tokens=max_tokens or policy.max_tokens,
            temperature=policy.temperature,
            top_p=policy.top_p,
            seed=derive_seed(self.key, self.num_requests),
            num_beams=policy.num_beams,
            repetition_penalty=policy.repetition_penalty,
            length_penalty=policy.length_penalty,
            stop_at=stop_at,
        )
        self.num_requests += 1
        completion = await self.complete(request)
        self.num_tokens += completion.num_tokens
        return completion

    def record(self, step: CorrectionStep) -> None:
        self.steps.append(step)
        self.tell(step)

    def tell(self, news: Question | CorrectionStep) -> None:
        if self.listen is not None:
            self.listen(news)

    def conversation(self, kind: Kind, instruction: str, question: str, vig_answer: str, answer: str) -> Conversation:
        empty = not answer and not self.policy.keep_empty_answers
        return Conversation(
            kind=kind,
            instruction=instruction,
            question=question,
            vig_answer=vig_answer,
            one_shot_answer=self.one_shot_answer,
            answer=answer,
            steps=self.steps,
            sentences=[Sentence(text) for text in split_sentences(answer)],
            vig_sentences=[Sentence(text) for text in split_sentences(vig_answer)],
            num_tokens=self.num_tokens,
            status=Verdict.REJECTED if empty else Verdict.KEPT,
            reasons=["empty_answer"] if empty else [],
        )

    def rejected(self, kind: Kind, instruction: str, text: str) -> Conversation:
        """VIG's output was no question with an answer; it is kept as it came, so that somebody can look at it."""
        return Conversation(
            kind=kind,
            instruction=instruction,
            question="",
            vig_answer=text.strip(),
            one_shot_answer=None,
            answer="",
            num_tokens=self.num_tokens,
            status=Verdict.REJECTED,
            reasons=["unparsed"],
        )
