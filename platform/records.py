"""The one definition of every row type; it needs the standard library only.

One input image gives exactly one `Row`, whatever happens to it: a row that failed says why, it never vanishes. Arrow
schemas are derived from these classes in `platform/schema.py`; nothing is written down twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

RENDERED_SCENES = "rendered scenes"  # what the annotations of `vigc scenes` say of themselves


class VigcError(Exception):
    """Base of every error that the user can mend; the command line prints its message, not a traceback."""


class InputError(VigcError):
    """An image source, annotation file or record that cannot be used."""


class ConfigError(VigcError):
    """A setting that cannot be used."""


class ModelError(VigcError):
    """Weights, tokenizer, processor or prompt pack that cannot be used."""


class StoreError(VigcError):
    """A data set that cannot be used."""


class RunError(VigcError):
    """A run that could not go on; what is committed stays, and the same command continues from there."""


class Kind(StrEnum):
    """What a conversation is about (the paper's three, and knowledge-based visual question answering)."""

    CONVERSATION = "conversation"
    DETAIL = "detail"
    REASONING = "reasoning"
    KNOWLEDGE = "knowledge"


class Stop(StrEnum):
    """Why decoding stopped."""

    SENTENCE = "sentence"
    PARAGRAPH = "paragraph"
    END = "end"  # the model ended its answer
    MARK = "mark"  # the words were said that decoding was to stop at
    LENGTH = "length"  # the token limit was reached


class AnswerStyle(StrEnum):
    """The kind of answer that an evaluation wants; each model has its own words for asking so."""

    SHORT = "short"  # a word or a phrase
    YES_NO = "yes_no"
    LETTER = "letter"  # of one of the options, which stand in the question
    RANK = "rank"  # nothing is said: the candidates' probabilities are wanted
    CONVERSATION = "conversation"  # the styles of free answers are named like the kinds of a conversation
    DETAIL = "detail"
    REASONING = "reasoning"


class RowStatus(StrEnum):
    """Whether the image could be read and talked about at all."""

    OK = "ok"
    FAILED = "failed"


class Verdict(StrEnum):
    """Whether a conversation belongs in the exported data."""

    KEPT = "kept"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class ObjectBox:
    """One annotated object."""

    category: str
    bbox: list[float]  # x, y, width, height in pixels of the original image
    is_crowd: bool = False


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image of a source. None means unknown; an empty list of objects means annotated and empty."""

    image_id: str  # unique in its source: the path below the source's root
    uri: str
    width: int | None = None
    height: int | None = None
    objects: list[ObjectBox] | None = None
    captions: list[str] | None = None


@dataclass(frozen=True, slots=True)
class ImageForm:
    """What an engine wants of an image; exactly one of the two is set."""

    side: int | None = None  # uint8 RGB pixels of side x side, row by row
    max_pixels: int | None = None  # a JPEG file, upright, without metadata, of at most so many pixels


@dataclass(frozen=True, slots=True)
class CorrectionStep:
    """One VIC step: what the model said next, and what was kept of it."""

    text: str  # everything decoded in this step
    kept: str  # the unit that joined the answer; "" when there was nothing to keep
    stop: Stop
    num_tokens: int
    mean_logprob: float | None  # nats per token under the decoding distribution; None when no token was decoded


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence of an answer, with what was measured on it (None: not measured)."""

    text: str
    grounding: float | None = None
    # Every mention of a category, in the order of the text, repeats included: what CHAIR counts.
    objects_named: list[str] | None = None
    objects_absent: list[str] | None = None  # those of them that are not there; None where nobody annotated the image


@dataclass(frozen=True, slots=True)
class RowError:
    """Why an image gave no conversations, or a conversation no answer."""

    kind: str  # a short stable name, e.g. "truncated", "missing", "engine"
    message: str


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens as a server counts (and charges for) them."""

    num_prompt: int = 0
    num_completion: int = 0

    def __add__(self, other: TokenUsage) -> TokenUsage:
        return TokenUsage(self.num_prompt + other.num_prompt, self.num_completion + other.num_completion)


@dataclass(frozen=True, slots=True)
class Conversation:
    """One question about one image with VIG's answer, VIC's one-shot answer and the corrected answer."""

    kind: Kind
    instruction: str
    question: str
    vig_answer: str  # "" where the policy does not ask for it
    one_shot_answer: str | None  # the whole output of the first VIC call; None unless the policy asks for it
    answer: str
    steps: list[CorrectionStep] = field(default_factory=list)
    sentences: list[Sentence] = field(default_factory=list)  # of `answer`
    vig_sentences: list[Sentence] = field(default_factory=list)  # of `vig_answer`
    num_tokens: int = 0  # decoded for this conversation, VIG included
    status: Verdict = Verdict.KEPT
    reasons: list[str] = field(default_factory=list)  # why it was rejected
    error: RowError | None = None  # what a model that works said instead of an answer, such as a server's refusal


@dataclass(frozen=True, slots=True)
class Row:
    """One output row: the image record and what was made of it."""

    image_id: str
    uri: str
    width: int | None
    height: int | None
    objects: list[ObjectBox] | None
    captions: list[str] | None
    status: RowStatus
    error: RowError | None
    sha256: str | None  # of the image file's bytes
    phash: str | None  # 64-bit perceptual hash, 16 hex digits
    conversations: list[Conversation]
    pass_: str | None  # the number of the pass that made this row, such as "001"; None where the service made it
    objects_present: list[str] | None = None  # categories of the pass's vocabulary that box or caption name, sorted
    usage: TokenUsage | None = None  # of all requests about this image; None: the model ran here, and nobody counted


@dataclass(frozen=True, slots=True)
class Instruction:
    """One question about an image with the answers that training may give: what a data set teaches."""

    image: str  # absolute path or URI of the image
    question: str
    answers: tuple[str, ...]  # different from each other, at least one
    weights: tuple[float, ...]  # how often each of them is drawn; their sum is 1
    kind: Kind
    place: str  # where it was read, for errors, e.g. "detail_23k.json: record 17" (counted from 0)
