"""Every choice that the method leaves open, and the presets that make them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from vigc.model.conversation.grounding import Grounding
from vigc.model.sentences import Unit
from vigc.platform import plugins
from vigc.platform.records import ConfigError


class PromptStyle(StrEnum):
    """What VIC reads in front of the answer so far."""

    VIG = "vig"  # instruction and tagged question, as the authors' generation does
    VIC = "vic"  # the bare question, as VIC was trained (Q6)


class QformerReads(StrEnum):
    """The ablations of the iterative Q-Former: only PROMPT makes VIC look anew at each step."""

    PROMPT = "prompt"  # all that the language model reads, answer so far included
    QUESTION = "question"  # the prompt without the answer so far
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Policy:
    """Every choice the method leaves open. The defaults are the preset `paper`; Q1 to Q23 are explained in
    model/README.md.
    """

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
    # Beyond the paper. The corrections need a grounding, and take ASKED where none is named.
    grounding: Grounding = Grounding.NONE
    min_grounding: float = 0.0  # what is under it is denied; nats
    verify: bool = False  # a denied sentence is said again without those objects, or else dropped
    choose: bool = False  # VIG's answer stays where less of it is denied than of VIC's
    candidates: int = 1  # of each VIC unit, sampled
    candidate_temperature: float = 0.7  # where `temperature` is 0


POLICIES = {
    "paper": Policy(),
    # The least that gives a question and a corrected answer: no answer of VIG's to compare with, four sentences.
    "lean": Policy(name="lean", vig_answer=False, max_steps=4),
    # As `paper`, and nothing stays that the model denies when it is asked.
    "verified": Policy(name="verified", grounding=Grounding.ASKED, verify=True),
    # Bug for bug what the authors' settings do (model/README.md): 249 new tokens are what their limit of 250 gave
    # (Q10).
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
    """A preset, or an installed plug-in's policy, with changes.

    Raises:
        ConfigError: an unknown preset or option, or a value out of range.
    """
    preset = POLICIES.get(name) or plugins.load(plugins.POLICIES, name)
    if preset is None:
        known = ", ".join([*POLICIES, *plugins.installed(plugins.POLICIES)])
        raise ConfigError(f"The policy {name!r} is unknown; there are {known}.")
    if not isinstance(preset, Policy):
        raise ConfigError(f"The plug-in for the policy {name!r} gave {type(preset).__name__}, which is no Policy.")
    try:
        policy = replace(preset, **changes)  # type: ignore[arg-type]
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
    if policy.candidates < 1 or policy.candidate_temperature <= 0:
        raise ConfigError("candidates must be at least 1, and candidate_temperature above 0.")
    if policy.candidates > 1 and policy.num_beams > 1:
        raise ConfigError("Candidates are sampled, so num_beams must be 1. Add --set num_beams=1.")
    if policy.choose and not policy.vig_answer:
        raise ConfigError(f"The policy {policy.name!r} does without VIG's answer, so there is nothing to choose from.")
    if (policy.verify or policy.choose or policy.candidates > 1) and policy.grounding is Grounding.NONE:
        policy = replace(policy, grounding=Grounding.ASKED)
    return policy
