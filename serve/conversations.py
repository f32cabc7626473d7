"""From a request to a row of the data set, and the events on the way there.

The row has the schema of `vigc generate`'s rows; the same image, image_id, settings and seed give the same content.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vigc.model.conversation.dialogue import Question
from vigc.model.conversation.grounding import Grounding
from vigc.model.conversation.policy import Policy, make_policy
from vigc.model.engines.choose import ChosenModel
from vigc.model.prompts import PromptPack
from vigc.model.sentences import split_sentences
from vigc.platform.quality.presence import NameObjects
from vigc.platform.records import (
    ConfigError,
    Conversation,
    CorrectionStep,
    ImageRecord,
    Kind,
    ObjectBox,
    Row,
    RowError,
    RowStatus,
    Sentence,
    TokenUsage,
)
from vigc.platform.schema import to_dict
from vigc.serve.errors import wrong
from vigc.serve.images import RequestImage
from vigc.serve.messages import Ask, Counted, KindEvent, ReplicaTask, Started
from vigc.serve.schema.vigc import DecodingOptions, VigcOptions
from vigc.serve.settings import ServeSettings
from vigc.serve.validation import obstacle


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """An event of a streamed answer."""

    name: str
    data: dict[str, Any]


@dataclass(frozen=True)
class ConversationService:
    """Answers requests; `ask` sends a task to a replica."""

    settings: ServeSettings
    chosen: ChosenModel
    objects: NameObjects | None
    ask: Ask

    @property
    def pack(self) -> PromptPack:
        return self.chosen.pack

    def check(
        self, options: DecodingOptions, kinds: Sequence[Kind], question: str | None, max_steps: int | None = None
    ) -> Policy:
        """The policy of a request, checked with all else that can be known before its image is there.

        Raises:
            ApiError: the service cannot answer this.
        """
        for kind in kinds:
            try:
                self.pack.kind(kind)
            except ConfigError as error:
                raise wrong(str(error), "kind") from error
        if question is not None:
            self._check_question(question)
        name = options.policy or self.settings.policy
        given = {
            "temperature": options.temperature,
            "top_p": options.top_p,
            "grounding": options.grounding or self.settings.grounding,
            "max_steps": max_steps,
        }
        try:
            policy = make_policy(name, **{option: value for option, value in given.items() if value is not None})
        except ConfigError as error:
            raise wrong(str(error), "policy") from error
        if (reason := obstacle(policy, self.chosen)) is not None:
            raise wrong(reason, "grounding" if policy.grounding is Grounding.BLANK else "policy")
        if policy.grounding is Grounding.ASKED and self.objects is None:
            raise wrong("This service has no vocabulary of objects to ask about; use grounding `blank`.", "grounding")
        return policy

    def can_follow(self, policy: Policy) -> bool:
        """Whether a request may name this policy."""
        has_objects = self.objects is not None
        return obstacle(policy, self.chosen) is None and (policy.grounding is not Grounding.ASKED or has_objects)

    async def events(
        self, request: VigcOptions, policy: Policy, image: RequestImage, request_id: str
    ) -> AsyncGenerator[ServerSentEvent, None]:
        """The events about a decoded image; the last one is the row.

        Raises:
            ApiError: no replica can answer.
        """
        record = _record(request, image)
        task = ReplicaTask(
            image_id=record.image_id,
            pixels=image.decoded.pixels or b"",
            policy=policy,
            kinds=tuple(dict.fromkeys(request.kinds)),
            seed=request.seed or 0,
            question=request.question,
            max_tokens=request.max_tokens,
            wants_steps=request.stream,
        )
        answers = {kind: GrowingAnswer() for kind in task.kinds}
        conversations: dict[Kind, Conversation] = {}
        usage: TokenUsage | None = None
        async for message in self.ask(task):
            if isinstance(message, Started):
                about = {**to_dict(record), "sha256": image.decoded.sha256, "phash": image.decoded.phash}
                yield ServerSentEvent("image", {"request_id": request_id, **about})
                continue
            if isinstance(message, Counted):
                usage = message.usage
            if not isinstance(message, KindEvent):
                continue
            kind = message.kind
            match message.event:
                case Conversation() as conversation:
                    conversations[kind] = self.named(conversation, record)
                    yield ServerSentEvent("conversation", to_dict(conversations[kind]))
                case Question() as asked:
                    texts = {"question": asked.question, "vig_answer": asked.vig_answer}
                    sentences = self._sentences(asked.vig_answer, record)
                    yield ServerSentEvent("question", {"kind": kind, **texts, "vig_sentences": sentences})
                case CorrectionStep() as step:
                    answer = answers[kind]
                    sentences = self._sentences(answer.add(step), record)
                    whole = {"number": answer.num_steps, **to_dict(step), "answer": answer.text}
                    yield ServerSentEvent("step", {"kind": kind, **whole, "sentences": sentences})
        row = replace(self._row(record, image), conversations=[conversations[kind] for kind in task.kinds], usage=usage)
        yield ServerSentEvent("row", to_dict(row))

    def failed_row(self, request: VigcOptions, image: RequestImage) -> dict[str, Any]:
        """The row of an image that could not be decoded."""
        error = RowError(image.decoded.error_kind or "unreadable", image.decoded.error_message or "")
        row: dict[str, Any] = to_dict(self._row(_record(request, image), image, error))
        return row

    def named(self, conversation: Conversation, record: ImageRecord) -> Conversation:
        """With the objects that it names, and which of them are absent from the image."""
        return conversation if self.objects is None else self.objects.of_conversation(conversation, record)

    def _check_question(self, question: str) -> None:
        if not question.strip():
            raise wrong("The question is empty.", "question")
        if len(question) > (most := self.settings.max_question_chars):
            message = f"The question has {len(question)} characters; at most {most} are read."
            raise wrong(message, "question", "string_above_max_length")

    def _sentences(self, text: str, record: ImageRecord) -> list[dict[str, Any]]:
        sentences = [Sentence(one) for one in split_sentences(text)]
        named = sentences if self.objects is None else self.objects.of_sentences(sentences, record)
        return [to_dict(one) for one in named]

    def _row(self, record: ImageRecord, image: RequestImage, error: RowError | None = None) -> Row:
        """Without conversations."""
        row = Row(
            **{name: getattr(record, name) for name in ImageRecord.__dataclass_fields__},
            status=RowStatus.OK if error is None else RowStatus.FAILED,
            error=error,
            sha256=image.decoded.sha256,
            phash=image.decoded.phash,
            conversations=[],
            pass_=None,
        )
        return row if self.objects is None else self.objects.of_row(row)


class GrowingAnswer:
    """An answer as it grows, step by step; in the end it is the conversation's."""

    def __init__(self) -> None:
        self.num_steps = 0
        self._raw = ""

    @property
    def text(self) -> str:
        return self._raw.strip()

    def add(self, step: CorrectionStep) -> str:
        """The text that this step adds."""
        length = len(self.text)
        self.num_steps += 1
        if step.kept:
            self._raw += step.text[: step.text.index(step.kept) + len(step.kept)]
        return self.text[length:]


def _record(request: VigcOptions, image: RequestImage) -> ImageRecord:
    boxes = request.objects
    return ImageRecord(
        image_id=request.image_id or image.decoded.sha256 or "",
        uri=image.uri,
        width=image.decoded.width,
        height=image.decoded.height,
        objects=None if boxes is None else [ObjectBox(box.category, box.bbox, box.is_crowd) for box in boxes],
        captions=request.captions,
    )
