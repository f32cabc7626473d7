"""From what a client asks to a row of the data set, and the events on the way there.

The row has the schema of `vigc generate`'s rows; the same picture, image_id, settings and seed give the same content.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from vigc.model.conversation.dialogue import Question
from vigc.model.conversation.grounding import Grounding
from vigc.model.conversation.policy import POLICIES, Policy, make_policy
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
)
from vigc.platform.schema import to_dict
from vigc.serve.errors import ApiError, wrong
from vigc.serve.images import RequestImage
from vigc.serve.messages import Ask, ReplicaTask, Started
from vigc.serve.settings import ServeSettings

DEFAULT_KINDS = (Kind.CONVERSATION, Kind.DETAIL, Kind.REASONING)  # those of `vigc generate`
MAX_STEPS, MAX_TOKENS = 64, 4096


class AnnotatedObject(BaseModel):
    """An annotated object."""

    model_config = ConfigDict(extra="forbid")

    category: Annotated[str, Field(min_length=1, max_length=100)]
    bbox: Annotated[list[FiniteFloat], Field(min_length=4, max_length=4, description="x, y, width, height in pixels")]
    is_crowd: bool = False


class DecodingOptions(BaseModel):
    """What can be chosen about how an image is talked about."""

    policy: Annotated[str | None, Field(description=f"One of {', '.join(POLICIES)}; else the service's.")] = None
    temperature: Annotated[FiniteFloat | None, Field(ge=0, le=2, description="0 is greedy.")] = None
    top_p: Annotated[FiniteFloat | None, Field(gt=0, le=1)] = None
    seed: Annotated[int | None, Field(ge=0, lt=2**63, description="Of words that are sampled; 0 unless given.")] = None

    grounding: Annotated[
        Grounding | None, Field(description="How it is measured what each sentence owes to the image.")
    ] = None

    def chosen_policy(self, settings: ServeSettings, **more: object) -> Policy:
        """
        Raises:
            ApiError: no such policy.
        """
        name = self.policy or settings.policy
        grounding = self.grounding or settings.grounding
        given = {"temperature": self.temperature, "top_p": self.top_p, "grounding": grounding, **more}
        try:
            policy = make_policy(name, **{option: value for option, value in given.items() if value is not None})
        except ConfigError as error:
            raise wrong(str(error), "policy") from error
        if policy.num_beams > 1 and settings.engine != "reference":
            raise wrong(f"The policy {name!r} needs beams, which this service's engine has not.", "policy")
        if policy.grounding is Grounding.ASKED and settings.objects == "none":
            raise wrong("This service knows no words of objects to ask about; grounding may be blank.", "grounding")
        return policy


class VigcRequest(DecodingOptions):
    """One image to be talked about."""

    model_config = ConfigDict(extra="forbid")

    image: Annotated[str, Field(description="A data URI or an http(s) address; in multipart/form-data a file.")]
    image_id: Annotated[
        str | None,
        Field(min_length=1, max_length=1024, description="Sampling depends on it. Unless given, the file's sha256."),
    ] = None
    kinds: Annotated[list[Kind], Field(min_length=1, max_length=len(Kind))] = list(DEFAULT_KINDS)
    question: Annotated[
        str | None, Field(min_length=1, description="VIC answers it, in each kind; without one VIG asks.")
    ] = None
    max_steps: Annotated[int | None, Field(ge=1, le=MAX_STEPS, description="Sentences of an answer.")] = None
    max_tokens: Annotated[
        int | None, Field(ge=1, le=MAX_TOKENS, description="Decoded for each conversation in all.")
    ] = None
    objects: Annotated[
        list[AnnotatedObject] | None,
        Field(max_length=1000, description="All that are there; what else is named is absent."),
    ] = None
    captions: Annotated[list[Annotated[str, Field(max_length=2000)]] | None, Field(max_length=100)] = None
    stream: Annotated[bool, Field(description="Server-sent events as it is said, instead of the row alone.")] = False


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """Something to tell the client at once."""

    name: str
    data: dict[str, Any]


@dataclass(frozen=True)
class RowService:
    """Makes rows of requests."""

    settings: ServeSettings
    pack: PromptPack
    objects: NameObjects | None
    ask: Ask

    def check(self, request: VigcRequest) -> Policy:
        """What can be known to be wrong before there is a picture.

        Raises:
            ApiError
        """
        for kind in request.kinds:
            check_kind(self.pack, kind)
        if request.question is not None:
            check_question(request.question, self.settings)
        return request.chosen_policy(self.settings, max_steps=request.max_steps)

    def failed(self, request: VigcRequest, picture: RequestImage) -> Row:
        """The row of a picture that could not be decoded."""
        record = self._record(request, picture)
        error = RowError(picture.decoded.error_kind or "unreadable", picture.decoded.error_message or "")
        return self._row(record, picture, error)

    async def events(
        self, request: VigcRequest, picture: RequestImage, request_id: str
    ) -> AsyncGenerator[ServerSentEvent, None]:
        """All that is said of a decoded picture; the last one is the row.

        Raises:
            ApiError
        """
        record = self._record(request, picture)
        task = ReplicaTask(
            image_id=record.image_id,
            pixels=picture.decoded.pixels or b"",
            policy=self.check(request),
            kinds=tuple(dict.fromkeys(request.kinds)),
            seed=request.seed or 0,
            question=request.question,
            max_tokens=request.max_tokens,
            wants_steps=request.stream,
        )
        answers = {kind: GrowingAnswer() for kind in task.kinds}
        made: dict[Kind, Conversation] = {}
        async for event in self.ask(task):
            if isinstance(event, Started):
                yield ServerSentEvent("image", {"request_id": request_id, **_about(record, picture)})
            elif isinstance(event.news, Conversation):
                spoken = event.news if self.objects is None else self.objects.of_conversation(event.news, record)
                made[event.kind] = spoken
                yield ServerSentEvent("conversation", to_dict(spoken))
            else:
                yield self._heard(event.kind, event.news, answers[event.kind], record)
        row = self._row(record, picture)
        yield ServerSentEvent("row", to_dict(replace(row, conversations=[made[kind] for kind in task.kinds])))

    def named(self, spoken: Conversation) -> Conversation:
        """With the objects that it names, in an image of which nothing else is known."""
        return spoken if self.objects is None else self.objects.of_conversation(spoken, ImageRecord("", ""))

    def _heard(
        self, kind: Kind, news: Question | CorrectionStep, answer: GrowingAnswer, record: ImageRecord
    ) -> ServerSentEvent:
        if isinstance(news, Question):
            said = {"question": news.question, "vig_answer": news.vig_answer}
            return ServerSentEvent(
                "question", {"kind": kind, **said, "vig_sentences": self._sentences(news.vig_answer, record)}
            )
        begun = answer.text
        answer.add(news)
        step = {"number": answer.num_steps, **to_dict(news), "answer": answer.text}
        new = answer.text[len(begun) :]
        return ServerSentEvent("step", {"kind": kind, **step, "sentences": self._sentences(new, record)})

    def _sentences(self, text: str, record: ImageRecord) -> list[dict[str, Any]]:
        sentences = [Sentence(one) for one in split_sentences(text)]
        named = sentences if self.objects is None else self.objects.of_sentences(sentences, record)
        return [to_dict(one) for one in named]

    def _record(self, request: VigcRequest, picture: RequestImage) -> ImageRecord:
        boxes = request.objects
        return ImageRecord(
            image_id=request.image_id or picture.decoded.sha256 or "",
            uri=picture.uri,
            width=picture.decoded.width,
            height=picture.decoded.height,
            objects=None if boxes is None else [ObjectBox(box.category, box.bbox, box.is_crowd) for box in boxes],
            captions=request.captions,
        )

    def _row(self, record: ImageRecord, picture: RequestImage, error: RowError | None = None) -> Row:
        """Without conversations."""
        row = Row(
            **{name: getattr(record, name) for name in ImageRecord.__dataclass_fields__},
            status=RowStatus.OK if error is None else RowStatus.FAILED,
            error=error,
            sha256=picture.decoded.sha256,
            phash=picture.decoded.phash,
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

    def add(self, step: CorrectionStep) -> None:
        self.num_steps += 1
        if step.kept:
            self._raw += step.text[: step.text.index(step.kept) + len(step.kept)]


def check_kind(pack: PromptPack, kind: Kind) -> None:
    try:
        pack.kind(kind)
    except ConfigError as error:
        raise wrong(str(error), "kind") from error


def check_question(question: str, settings: ServeSettings) -> None:
    if not question.strip():
        raise wrong("The question is empty.", "question")
    if len(question) > settings.max_question_chars:
        raise wrong(
            f"The question has {len(question)} characters; at most {settings.max_question_chars} are read.",
            "question",
            "string_above_max_length",
        )


def check_picture(picture: RequestImage) -> None:
    """
    Raises:
        ApiError: it could not be decoded.
    """
    if picture.decoded.error_kind is not None:
        raise ApiError(
            413 if picture.decoded.error_kind == "too_large" else 400,
            f"The picture cannot be used: {picture.decoded.error_message}.",
            param="image",
            code=picture.decoded.error_kind,
        )


def _about(record: ImageRecord, picture: RequestImage) -> dict[str, Any]:
    return {**to_dict(record), "sha256": picture.decoded.sha256, "phash": picture.decoded.phash}


async def last(events: AsyncIterator[ServerSentEvent]) -> ServerSentEvent:
    """The row, for a client that wants nothing else."""
    found: ServerSentEvent | None = None
    async for event in events:
        found = event
    if found is None:
        raise ValueError("no events")
    return found
