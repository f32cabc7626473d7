"""A data set of drawn pictures whose answers were measured: what VIG says of them is partly untrue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import REQUEST, commit, draw

from vigc.platform.dataset.store import Store
from vigc.platform.records import (
    Conversation,
    ImageRecord,
    Kind,
    ObjectBox,
    Row,
    RowError,
    RowStatus,
    Sentence,
    Verdict,
)
from vigc.platform.sources.base import Records
from vigc.platform.vocabulary import load_vocabulary

TRUE, UNTRUE, MORE = "A cat sits on a chair.", "A dog lies beside it.", "The wall is white."


def sentence(text: str, grounding: float | None = None, *, is_measured: bool = True) -> Sentence:
    named = [name for name in ("cat", "chair", "dog") if name in text]
    if not is_measured:
        return Sentence(text, grounding)
    return Sentence(text, grounding, named, [name for name in named if name == "dog"])


def conversation(kind: Kind = Kind.DETAIL, **changes: Any) -> Conversation:
    """VIG says TRUE UNTRUE MORE, VIC leaves UNTRUE out."""
    made = Conversation(
        kind=kind,
        instruction="Describe.",
        question=f"What is there ({kind})?",
        vig_answer=" ".join((TRUE, UNTRUE, MORE)),
        one_shot_answer=None,
        answer=f"{TRUE} {MORE}",
        sentences=[sentence(TRUE, 1.5), sentence(MORE, 0.4)],
        vig_sentences=[sentence(TRUE, 1.5), sentence(UNTRUE, -0.8), sentence(MORE, 0.4)],
        num_tokens=30,
    )
    return replace(made, **changes)


def row(folder: Path, number: int, conversations: Sequence[Conversation]) -> Row:
    """A picture that lies in `folder`, with a cat and a chair."""
    name = f"im{number}.png"
    path = draw(folder / name, number, (64, 48))
    boxes = [ObjectBox("cat", [4.0, 6.0, 20.0, 30.0]), ObjectBox("chair", [30.0, 10.0, 25.0, 35.0])]
    return Row(
        image_id=name,
        uri=str(path),
        width=64,
        height=48,
        objects=boxes,
        captions=None,
        status=RowStatus.OK,
        error=None,
        sha256=None,
        phash=None,
        conversations=list(conversations),
        pass_="001",
        objects_present=["cat", "chair"],
    )


def failed(number: int, kind: str = "truncated") -> Row:
    made = row_without_picture(number)
    return replace(made, status=RowStatus.FAILED, error=RowError(kind, "cut short"), conversations=[])


def row_without_picture(number: int, conversations: Sequence[Conversation] = ()) -> Row:
    return Row(
        f"im{number}.png",
        f"/nowhere/im{number}.png",
        64,
        48,
        None,
        None,
        RowStatus.OK,
        None,
        None,
        None,
        list(conversations),
        "001",
    )


def store_of(out: Path | str, rows: Sequence[Row]) -> Store:
    """One block with these rows, whose objects are named in COCO's vocabulary."""
    store = Store(out)
    records = [ImageRecord(one.image_id, one.uri, one.width, one.height, one.objects) for one in rows]
    vocabulary = load_vocabulary("coco")
    pass_ = store.create_pass(REQUEST, Records(records), rows_per_block=len(rows), vocabulary=vocabulary)
    commit(pass_, rows, 0)
    return store


def measured_dataset(tmp_path: Path) -> Store:
    """Two images with two kinds each (of the second's one is rejected), one that cannot be read, one that is gone."""
    images = tmp_path / "images"
    both = [conversation(Kind.DETAIL), conversation(Kind.CONVERSATION)]
    rejected = replace(conversation(Kind.CONVERSATION), status=Verdict.REJECTED, reasons=["short"])
    return store_of(
        tmp_path / "out",
        [
            row(images, 1, both),
            row(images, 2, [conversation(Kind.DETAIL), rejected]),
            failed(3),
            row_without_picture(4, [conversation(Kind.DETAIL)]),
        ],
    )
