"""The cards of the report: an image with its boxes, what was asked, both answers sentence by sentence.

Words that name absent objects are marked where the pass's vocabulary finds them. Everything here is plain data; the
template escapes it.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vigc.platform.images.decode import thumbnail
from vigc.platform.quality.mentions import ObjectFinder
from vigc.platform.records import RowError, Verdict

THUMBNAIL_SIDE = 448  # pixels of the longer side
MAX_BOXES = 60
NUM_COLOURS = 8
GROUNDED = 1.0  # nats from which on a sentence has no tint


@dataclass(frozen=True, slots=True)
class BoxOutline:
    category: str
    x: float  # percent of the image's width and height
    y: float
    width: float
    height: float
    colour: int  # number of one of NUM_COLOURS


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a sentence."""

    text: str
    absent: str | None  # the absent object that it names


@dataclass(frozen=True, slots=True)
class SentenceView:
    number: int
    text: str
    pieces: list[Piece]
    absent: list[str]
    is_measured: bool  # whether it is known which objects are absent
    is_new: bool  # not in the other answer
    grounding: float | None
    tint: int | None  # 0 (owes nothing to the image) to 100 (no tint)


@dataclass(frozen=True, slots=True)
class ConversationView:
    kind: str
    question: str
    vig: list[SentenceView]
    final: list[SentenceView]
    is_kept: bool
    reasons: list[str]
    num_tokens: int

    @property
    def badness(self) -> tuple[int, float]:
        """Absent objects, and how little the worst sentence owes to the image."""
        measured = [-sentence.grounding for sentence in self.final if sentence.grounding is not None]
        return sum(len(sentence.absent) for sentence in self.final), max(measured, default=-math.inf)


@dataclass(frozen=True, slots=True)
class Card:
    image_id: str
    pass_: str
    width: int | None
    height: int | None
    image: str | None  # a data URL
    error: str | None  # why there is no image
    boxes: list[BoxOutline]
    objects: list[tuple[str, int]]  # what is there, and how often
    conversations: list[ConversationView]


FindPieces = Callable[[str, Sequence[str]], list[Piece]]


def pieces_with(finders: Sequence[ObjectFinder]) -> FindPieces:
    """Cuts a sentence at the words that name absent objects."""

    def cut(text: str, absent: Sequence[str]) -> list[Piece]:
        if not absent:
            return [Piece(text, None)]
        pieces: list[Piece] = []
        start = 0
        for finder in finders:
            for mention in finder.find_objects(text):
                if mention.category in absent and mention.start >= start:
                    if mention.start > start:
                        pieces.append(Piece(text[start : mention.start], None))
                    pieces.append(Piece(text[mention.start : mention.end], mention.category))
                    start = mention.end
            if pieces:
                break
        return [*pieces, Piece(text[start:], None)] if start < len(text) else pieces

    return cut


def cards(
    rows: Iterable[Mapping[str, Any]], cut: FindPieces, verdict: Verdict, *, worst_first: bool = False
) -> list[Card]:
    """One for each row, with its kept conversations, or with its rejected ones.

    Args:
        worst_first: which conversation comes first; else chance decides, so that a sample of rows is one of kinds, too.
    """
    return [_card(row, cut, verdict, worst_first) for row in rows]


def _card(row: Mapping[str, Any], cut: FindPieces, verdict: Verdict, worst_first: bool) -> Card:
    image = thumbnail(str(row["uri"]), THUMBNAIL_SIDE)
    is_there = isinstance(image, bytes)
    counts: dict[str, int] = {}
    for one in row["objects"] or ():
        counts[one["category"]] = counts.get(one["category"], 0) + 1
    views = [_conversation(one, cut) for one in row["conversations"] if one["status"] == verdict]
    if worst_first:
        views.sort(key=lambda view: view.badness, reverse=True)
    return Card(
        image_id=str(row["image_id"]),
        pass_=str(row["pass"]),
        width=row["width"],
        height=row["height"],
        image=f"data:image/jpeg;base64,{base64.b64encode(image).decode()}" if isinstance(image, bytes) else None,
        error=f"{image.kind}: {image.message}" if isinstance(image, RowError) else None,
        boxes=_boxes(row) if is_there else [],
        objects=sorted(counts.items(), key=lambda item: (-item[1], item[0])),
        conversations=sorted(views, key=lambda view: view.badness, reverse=True)
        if worst_first
        else _turned(views, row["image_id"]),
    )


def _turned(views: list[ConversationView], image_id: str) -> list[ConversationView]:
    first = zlib.crc32(image_id.encode()) % max(1, len(views))
    return [*views[first:], *views[:first]]


def _boxes(row: Mapping[str, Any]) -> list[BoxOutline]:
    width, height = row["width"], row["height"]
    if not width or not height:
        return []
    colours = {category: n for n, category in enumerate(dict.fromkeys(one["category"] for one in row["objects"] or ()))}
    boxes = []
    for one in (row["objects"] or ())[:MAX_BOXES]:
        x, y, across, down = (
            round(100 * v / side, 2) for v, side in zip(one["bbox"], (width, height) * 2, strict=True)
        )
        boxes.append(BoxOutline(one["category"], x, y, across, down, colours[one["category"]] % NUM_COLOURS))
    return boxes


def _conversation(one: Mapping[str, Any], cut: FindPieces) -> ConversationView:
    vig, final = one["vig_sentences"], one["sentences"]
    texts_vig, texts_final = ({sentence["text"].strip() for sentence in text} for text in (vig, final))
    return ConversationView(
        kind=one["kind"],
        question=one["question"],
        vig=[_sentence(n, each, cut, texts_final) for n, each in enumerate(vig or _unmeasured(one["vig_answer"]))],
        final=[_sentence(n, each, cut, texts_vig) for n, each in enumerate(final or _unmeasured(one["answer"]))],
        is_kept=one["status"] == Verdict.KEPT,
        reasons=list(one["reasons"] or ()),
        num_tokens=one["num_tokens"],
    )


def _unmeasured(text: str) -> list[dict[str, Any]]:
    """A whole answer as one sentence, where nothing cut it."""
    return [{"text": text, "objects_absent": None, "grounding": None}] if text.strip() else []


def _sentence(number: int, sentence: Mapping[str, Any], cut: FindPieces, others: set[str]) -> SentenceView:
    absent = sentence["objects_absent"]
    grounding = sentence["grounding"]
    return SentenceView(
        number=number,
        text=sentence["text"],
        pieces=cut(sentence["text"], absent or ()),
        absent=list(dict.fromkeys(absent or ())),
        is_measured=absent is not None,
        is_new=sentence["text"].strip() not in others,
        grounding=grounding,
        tint=None if grounding is None else round(100 * min(max(grounding / GROUNDED, 0.0), 1.0)),
    )
