"""One conversation's dealings with the engine: it numbers requests, counts tokens, keeps steps, and asks the grounding
of what was said.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from vigc.model.completion import Candidates, Complete, Completion, Request, RequestFailed, derive_seed
from vigc.model.conversation.grounding import Grounder, Grounding
from vigc.model.conversation.policy import Policy, QformerReads
from vigc.model.sentences import Unit, split_sentences
from vigc.platform.records import ConfigError, Conversation, CorrectionStep, Kind, RowError, Sentence, Verdict


@dataclass(frozen=True, slots=True)
class Question:
    """What VIG made: VIC begins with it."""

    question: str
    vig_answer: str  # "" where nobody asked for one


OnEvent = Callable[[Question | CorrectionStep], None]


class Dialogue:
    """One conversation's bookkeeping: numbers its requests, counts its tokens, keeps its steps."""

    def __init__(
        self,
        complete: Complete,
        candidates: Candidates | None,
        grounder: Grounder | None,
        policy: Policy,
        key: str,
        on_event: OnEvent | None,
    ) -> None:
        if policy.grounding is not Grounding.NONE and grounder is None:
            raise ConfigError("The policy measures grounding, and there is no grounder.")
        if policy.candidates > 1 and candidates is None:
            raise ConfigError("The policy wants several candidates, and nothing gives them.")
        self._complete, self._candidates, self._grounder = complete, candidates, grounder
        self.policy, self.key, self._on_event = policy, key, on_event
        self.steps: list[CorrectionStep] = []
        self.question: Question | None = None  # once it is known
        self.one_shot_answer: str | None = None
        self.num_requests = self.num_tokens = 0

    async def ask(
        self,
        prompt: str,
        answer: str = "",
        until: Unit = Unit.WHOLE,
        max_tokens: int | None = None,
        stop_at: str = "",
        suppress: tuple[str, ...] = (),
    ) -> Completion:
        request = self._request(prompt, answer, until, max_tokens, stop_at, suppress)
        completion = await self._complete(request)
        self.num_tokens += completion.num_tokens
        return completion

    async def ask_several(self, prompt: str, answer: str, until: Unit, suppress: tuple[str, ...]) -> list[Completion]:
        """The policy's number of candidates."""
        if self._candidates is None:
            raise ValueError("asked for candidates where nothing gives them")
        policy = self.policy
        request = replace(
            self._request(prompt, answer, until, suppress=suppress),
            n=policy.candidates,
            temperature=policy.temperature or policy.candidate_temperature,
        )
        completions = await self._candidates(request)
        self.num_tokens += sum(one.num_tokens for one in completions)
        return completions

    def _request(
        self,
        prompt: str,
        answer: str,
        until: Unit,
        max_tokens: int | None = None,
        stop_at: str = "",
        suppress: tuple[str, ...] = (),
    ) -> Request:
        policy = self.policy
        seen = {QformerReads.PROMPT: prompt + answer, QformerReads.QUESTION: prompt, QformerReads.NOTHING: ""}[
            policy.qformer_reads
        ]
        self.num_requests += 1
        return Request(
            qformer_text=seen,
            prompt=prompt,
            prefix=answer,
            until=until,
            max_tokens=max_tokens or policy.max_tokens,
            temperature=policy.temperature,
            top_p=policy.top_p,
            seed=derive_seed(self.key, self.num_requests - 1),
            num_beams=policy.num_beams,
            repetition_penalty=policy.repetition_penalty,
            length_penalty=policy.length_penalty,
            suppress=suppress,
            stop_at=stop_at,
        )

    async def is_denied(self, prompt: str, said: str, text: str) -> bool:
        """Whether the grounding of the next unit is under the policy's least; not where it cannot be measured."""
        value = await self._measure(prompt + said, text)
        return value is not None and value < self.policy.min_grounding

    async def denied_words(self, text: str) -> tuple[str, ...]:
        """The words that a denied unit is denied for, as far as they can be told."""
        return tuple(await self._trusted.denied(text, self.policy.min_grounding))

    async def best(self, prompt: str, said: str, texts: list[str], pieces: list[Completion]) -> int:
        """The likeliest candidate of those that are not denied; where all are, the one that is denied least."""
        measured = await asyncio.gather(*(self._measure(prompt + said, text) for text in texts))

        def rank(place: int) -> tuple[bool, float, float]:
            grounding, logprob = measured[place], pieces[place].mean_logprob
            denial = 0.0 if grounding is None else min(0.0, grounding - self.policy.min_grounding)
            return not denial, denial, -math.inf if logprob is None else logprob

        return max(range(len(texts)), key=rank)

    async def choose(self, prompt: str, vig_answer: str, answer: str) -> str:
        """VIG's answer where less of it is denied, else VIC's. Of the steps to an answer that is not taken nothing is
        kept.
        """
        vig, vic = await asyncio.gather(*(self._num_denied(prompt, text) for text in (vig_answer, answer)))
        if answer and vic <= vig:
            return answer
        self.steps = [replace(step, kept="") for step in self.steps]
        return vig_answer

    async def _num_denied(self, prompt: str, text: str) -> int:
        measured = await self._trusted.measure(prompt, split_sentences(text))
        return sum(value is not None and value < self.policy.min_grounding for value in measured)

    async def _measure(self, prompt: str, text: str) -> float | None:
        return (await self._trusted.measure(prompt, [text.strip()]))[0] if text.strip() else None

    @property
    def _trusted(self) -> Grounder:
        if self._grounder is None:
            raise ValueError("a policy that corrects by grounding measures it")
        return self._grounder

    def record(self, step: CorrectionStep) -> None:
        self.steps.append(step)
        self.emit(step)

    def emit(self, event: Question | CorrectionStep) -> None:
        if isinstance(event, Question):
            self.question = event
        if self._on_event is not None:
            self._on_event(event)

    async def conversation(
        self, kind: Kind, instruction: str, question: str, vig_answer: str, answer: str, prompt: str
    ) -> Conversation:
        empty = not answer and not self.policy.keep_empty_answers
        made = Conversation(
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
        return made if self._grounder is None else await self._grounder.ground(made, prompt)

    def failed(self, kind: Kind, instruction: str, failed: RequestFailed) -> Conversation:
        """What there is of a conversation in which the model did not answer a request."""
        known = self.question or Question("", "")
        return Conversation(
            kind=kind,
            instruction=instruction,
            question=known.question,
            vig_answer=known.vig_answer,
            one_shot_answer=None,
            answer="",
            num_tokens=self.num_tokens,
            status=Verdict.REJECTED,
            reasons=[failed.kind],
            error=RowError(failed.kind, failed.message),
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
