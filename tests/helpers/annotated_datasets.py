"""Data sets of what was said about annotated images, for the tests of what is counted in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datasets import REQUEST, row, table
from records_for_quality import image

from vigc.platform.dataset.layout import Block
from vigc.platform.dataset.ledger import commit
from vigc.platform.dataset.store import Pass, Store
from vigc.platform.quality.presence import NameObjects
from vigc.platform.records import Conversation, ImageRecord, Kind, Row, Sentence, Verdict
from vigc.platform.sources.base import Records
from vigc.platform.vocabulary import load_vocabulary


@dataclass(frozen=True)
class AnnotatedAnswer:
    """One conversation about one image; a word in the objects is a box."""

    objects: Sequence[str] | None
    vig: str
    final: str
    question: str = "What is there?"
    kind: Kind = Kind.DETAIL
    status: Verdict = Verdict.KEPT
    phash: str | None = None
    grounding: Sequence[float] | None = None  # of the final answer's sentences


def sentences(text: str, grounding: Sequence[float] | None = None) -> list[Sentence]:
    parts = [f"{one.strip(' .')}." for one in text.split(". ") if one.strip(" .")]
    return [Sentence(one, grounding and grounding[number]) for number, one in enumerate(parts)]


def conversation(said: AnnotatedAnswer) -> Conversation:
    return replace(
        row(ImageRecord("one.jpg", "/nowhere")).conversations[0],
        kind=said.kind,
        question=said.question,
        vig_answer=said.vig,
        answer=said.final,
        steps=[],
        sentences=sentences(said.final, said.grounding),
        vig_sentences=sentences(said.vig),
        status=said.status,
        reasons=[] if said.status is Verdict.KEPT else ["unparsed"],
    )


def rows_of(images: Sequence[Sequence[AnnotatedAnswer]], pass_: str = "001", vocabulary: str = "coco") -> list[Row]:
    """One row for each image, with its conversations; image i is `im{i}.png`."""
    rows = []
    for number, said in enumerate(images):
        record = ImageRecord(f"im{number}.png", f"/nowhere/im{number}.png")
        annotated = image(said[0].objects).objects
        spoken = [conversation(one) for one in said]
        made = replace(row(record), objects=annotated, phash=said[0].phash, conversations=spoken, pass_=pass_)
        rows.append(made)
    return rows


def add_pass(
    store: Store, images: Sequence[Sequence[AnnotatedAnswer]], vocabulary: str = "coco", **request: object
) -> Pass:
    """A further pass over these images."""
    number = f"{len(store.passes()) + 1:03}"
    words = load_vocabulary(vocabulary)
    rows = rows_of(images, number)
    kinds = [str(one.kind) for one in images[0]]
    source = Records([ImageRecord(one.image_id, one.uri) for one in rows])
    pass_ = store.create_pass(
        REQUEST | {"kinds": kinds, "number": number} | request, source, rows_per_block=len(rows), vocabulary=words
    )
    commit(pass_.folder, Block(0, 0), NameObjects(words)(table(rows)))
    return pass_


def data_set(out: Path | str, images: Sequence[Sequence[AnnotatedAnswer]], vocabulary: str = "coco") -> Store:
    store = Store(out)
    add_pass(store, images, vocabulary)
    return store
