"""How one question with its answers becomes a text to learn: VIG and VIC are two wordings of the same records, and
common-knowledge questions have a short form (model/README.md, "Two tasks" and "Knowledge questions").

VIC may find its answer begun, as it does at inference: the prompt then holds the first sentences, sometimes with one
that belongs to another image, and the target is the true rest (an addition of ours; model/README.md, Q6). A sentence
that was begun wrongly is not taken back, the next one is true again.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from enum import StrEnum

from vigc.model.prompts import PromptPack
from vigc.model.sentences import split_sentences
from vigc.model.training.recipe import Tasks
from vigc.platform.records import Kind


class Task(StrEnum):
    VIG = "vig"
    VIC = "vic"


def make_text(
    pack: PromptPack,
    tasks: Tasks,
    task: Task,
    kind: Kind,
    question: str,
    answer: str,
    rng: random.Random,
    others: Sequence[str] = (),
) -> tuple[str, str]:
    """Prompt and target of one record.

    Args:
        others: answers of other records, where a wrong sentence may come from.
    """
    if task is Task.VIG:
        return _vig(pack, tasks, kind, question, answer, rng)
    if kind is Kind.KNOWLEDGE:
        return pack.short_answer.format(question=question), f" {answer}"
    instruction = ""
    if rng.random() < tasks.with_instruction:
        instruction = _instruction(pack, tasks, kind, rng)
    prompt = pack.vic_prompt(instruction, question)
    sentences = split_sentences(answer)
    if len(sentences) < 2 or rng.random() >= tasks.prefix:
        return prompt, f" {answer}"
    num_begun = rng.randint(1, len(sentences) - 1)
    begun = sentences[:num_begun]
    if rng.random() < tasks.noise and others:
        begun[rng.randrange(num_begun)] = rng.choice(split_sentences(rng.choice(others)) or begun[:1])
    return f"{prompt} {' '.join(begun)}", f" {' '.join(sentences[num_begun:])}"


def _vig(pack: PromptPack, tasks: Tasks, kind: Kind, question: str, answer: str, rng: random.Random) -> tuple[str, str]:
    instruction = _instruction(pack, tasks, kind, rng)
    whole = f" {pack.question_tag} {question} {pack.answer_tag} {answer}"
    first, _, rest = question.partition(" ")
    if kind is Kind.KNOWLEDGE and rest and pack.kind(kind).first_words and rng.random() < 0.5:
        begun = f" {pack.question_tag} {first}"  # as at generation, where the first word is sampled
        return instruction + begun, whole[len(begun) :]
    return instruction, whole


def _instruction(pack: PromptPack, tasks: Tasks, kind: Kind, rng: random.Random) -> str:
    prompts = pack.kind(kind)
    return rng.choice([prompts.instruction, *prompts.paraphrases]) if tasks.paraphrases else prompts.instruction
