"""VIG, then VIC: one conversation about one image, as a coroutine.

VIG asks a question and answers it. VIC answers again, one unit at a time: each step feeds instruction, question and the
answer so far back through the Q-Former, so the model looks at the image anew before it goes on (arXiv 2308.12714 §3.2).
There is no batching and no torch here: `complete` belongs to one image and is answered by an engine, which runs
hundreds of these at once.

Beyond the paper, a policy may let the grounding of what was said decide: `verify` takes back a sentence that the model
denies when asked, `candidates` chooses among several continuations, `choose` between VIG's answer and VIC's.
"""

from __future__ import annotations

import random
import re

from vigc.model.completion import Candidates, Complete, Completion, RequestFailed, derive_seed
from vigc.model.conversation.dialogue import Dialogue, OnEvent, Question
from vigc.model.conversation.grounding import Grounder
from vigc.model.conversation.policy import Policy, PromptStyle
from vigc.model.prompts import PromptPack
from vigc.model.sentences import Unit, find_end
from vigc.platform.records import Conversation, CorrectionStep, Kind, Stop


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


async def converse(
    complete: Complete,
    pack: PromptPack,
    kind: Kind,
    policy: Policy,
    *,
    seed_key: str = "",
    candidates: Candidates | None = None,
    grounder: Grounder | None = None,
    on_event: OnEvent | None = None,
) -> Conversation:
    """Runs one conversation to its end.

    Args:
        seed_key: makes sampling depend on the run, image and kind only, e.g. "0/train/a.jpg".
        candidates: as `complete`, for several at once; needed where the policy wants several.
        grounder: of the image; needed where the policy measures grounding. All kinds of an image may share it.
        on_event: called with the question and then with each VIC step, as they are made.
    """
    dialogue = Dialogue(complete, candidates, grounder, policy, f"{seed_key}/{kind}", on_event)
    try:
        return await (_knowledge(dialogue, pack) if kind is Kind.KNOWLEDGE else _converse(dialogue, pack, kind))
    except RequestFailed as failed:
        return dialogue.failed(kind, pack.vig_prompt(kind), failed)


async def _converse(dialogue: Dialogue, pack: PromptPack, kind: Kind) -> Conversation:
    policy = dialogue.policy
    instruction = pack.vig_prompt(kind)
    text, pair = await _vig(dialogue, pack, instruction)
    if pair is None:
        return dialogue.rejected(kind, instruction, text)
    question, vig_answer = pair
    dialogue.emit(Question(question, vig_answer))
    prompt = (
        pack.vic_prompt(instruction, question, pack.kind(kind).style)
        if policy.prompt_style is PromptStyle.VIG
        else question
    )
    answer = await _correct(dialogue, prompt)
    if policy.choose:
        answer = await dialogue.choose(prompt, vig_answer, answer)
    return await dialogue.conversation(kind, instruction, question, vig_answer, answer, prompt)


async def answer_question(
    complete: Complete,
    pack: PromptPack,
    question: str,
    policy: Policy,
    *,
    kind: Kind = Kind.CONVERSATION,
    seed_key: str = "",
    candidates: Candidates | None = None,
    grounder: Grounder | None = None,
    on_event: OnEvent | None = None,
) -> Conversation:
    """VIC alone, for a question that is already there; the VIG answer stays empty."""
    dialogue = Dialogue(complete, candidates, grounder, policy, f"{seed_key}/{kind}/{question}", on_event)
    dialogue.emit(Question(question, ""))
    instruction = pack.vig_prompt(kind)
    prompt = (
        pack.vic_prompt(instruction, question, pack.kind(kind).style)
        if policy.prompt_style is PromptStyle.VIG
        else question
    )
    try:
        answer = await _correct(dialogue, prompt)
        return await dialogue.conversation(kind, instruction, question, "", answer, prompt)
    except RequestFailed as failed:
        return dialogue.failed(kind, instruction, failed)


async def _vig(
    dialogue: Dialogue, pack: PromptPack, instruction: str, begun: str = ""
) -> tuple[str, tuple[str, str] | None]:
    """VIG's text, behind what the instruction began, and its question and answer, if it holds them."""
    wants_answer = dialogue.policy.vig_answer
    first = await dialogue.ask(instruction, stop_at="" if wants_answer else pack.answer_tag)
    text = begun + first.text
    return text, parse(text, pack) if wants_answer else parse_question(text, pack)


async def _correct(dialogue: Dialogue, prompt: str) -> str:
    """VIC: the answer, unit by unit."""
    policy = dialogue.policy
    said = ""  # raw: every unit with the blank it was decoded with; denied ones too, behind which the model goes on
    answer = ""
    denied: tuple[str, ...] = ()  # words of objects that are denied, not to be said any more
    for number in range(policy.max_steps):
        keep_all = policy.last_step_keeps_all and number == policy.max_steps - 1
        whole = keep_all or (policy.one_shot and number == 0)
        until = Unit.WHOLE if whole else policy.unit
        piece, kept, goes_on = await _next(dialogue, prompt, said, until, denied, keep_all=keep_all)
        if policy.one_shot and number == 0:
            dialogue.one_shot_answer = piece.text.strip()
        is_denied = policy.verify and await dialogue.is_denied(prompt, said, kept)
        if is_denied and (words := await dialogue.denied_words(kept)):
            dialogue.record(CorrectionStep(piece.text, "", piece.stop, piece.num_tokens, piece.mean_logprob))
            denied += words
            piece, kept, goes_on = await _next(dialogue, prompt, said, until, denied, keep_all=keep_all)
            is_denied = await dialogue.is_denied(prompt, said, kept)
        if policy.stop_when_done and kept.strip() and [s.kept for s in dialogue.steps[-2:]] == [kept.strip()] * 2:
            kept, goes_on = "", False  # the same for the third time: decoding has run into a loop
        said += kept
        kept = "" if is_denied else kept
        answer += kept
        stop = (Stop.PARAGRAPH if policy.unit is Unit.PARAGRAPH else Stop.SENTENCE) if goes_on else piece.stop
        dialogue.record(CorrectionStep(piece.text, kept.strip(), stop, piece.num_tokens, piece.mean_logprob))
        if policy.stop_when_done and not goes_on:
            break
    return answer.strip()


async def _next(
    dialogue: Dialogue, prompt: str, said: str, until: Unit, denied: tuple[str, ...], *, keep_all: bool
) -> tuple[Completion, str, bool]:
    """The next unit: what the model said, what of it is kept, and whether it has more to say."""

    def cut(piece: Completion) -> tuple[str, bool]:
        return (piece.text, False) if keep_all else _cut(piece, dialogue.policy)

    if dialogue.policy.candidates == 1:
        piece = await dialogue.ask(prompt, said, until, suppress=denied)
    else:
        pieces = await dialogue.ask_several(prompt, said, until, suppress=denied)
        piece = pieces[await dialogue.best(prompt, said, [cut(one)[0] for one in pieces], pieces)]
    return piece, *cut(piece)


def _cut(piece: Completion, policy: Policy) -> tuple[str, bool]:
    """What of a piece joins the answer, and whether the model has more to say."""
    end = find_end(piece.text, policy.unit, final=piece.stop is not Stop.LENGTH)
    if end is None:
        return (piece.text if policy.keep_tail and piece.stop is Stop.END else ""), False
    # The reference rule cuts at the mark itself, before anything can be known of what follows.
    goes_on = policy.unit is Unit.REFERENCE_SENTENCE or piece.stop is not Stop.END or bool(piece.text[end:].strip())
    return piece.text[:end], goes_on


async def _knowledge(dialogue: Dialogue, pack: PromptPack) -> Conversation:
    """The knowledge route (model/README.md, "Knowledge questions"): a question from a sampled first word, then one
    short answer to it; VIC does not iterate here.
    """
    words = pack.kind(Kind.KNOWLEDGE).first_words
    rng = random.Random(derive_seed(dialogue.key, "first word"))
    word = rng.choices(list(words), list(words.values()))[0] if words else ""
    instruction = pack.vig_prompt(Kind.KNOWLEDGE, word)
    text, pair = await _vig(dialogue, pack, instruction, pack.begun(word))
    if pair is None:
        return dialogue.rejected(Kind.KNOWLEDGE, instruction, text)
    question, vig_answer = pair
    dialogue.emit(Question(question, vig_answer))
    short = pack.short_answer.format(question=question)
    piece = await dialogue.ask(short, max_tokens=dialogue.policy.max_tokens_short)
    answer = re.sub(r"^\s*answer:", "", piece.text, flags=re.IGNORECASE).strip()
    dialogue.record(CorrectionStep(piece.text, answer, piece.stop, piece.num_tokens, piece.mean_logprob))
    return await dialogue.conversation(Kind.KNOWLEDGE, instruction, question, vig_answer, answer, short)
