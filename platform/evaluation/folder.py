"""The folder of an evaluation: its items, the pass that asks them, the replies, the metrics.

`items.parquet` is written once, before the first question; rows of the pass are the model's replies, exactly one for
each image, each with one conversation for each item of that image, in the items' order. `predictions.parquet` and
`scores.json` follow from those two, so they are made again at will, without the model and without the benchmark's
files.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vigc.platform.dataset.passes import Pass, read_pass, readable
from vigc.platform.evaluation.items import Answered, Item, Reply
from vigc.platform.records import (
    Conversation,
    CorrectionStep,
    ImageRecord,
    Kind,
    RowStatus,
    Stop,
    StoreError,
    Verdict,
)
from vigc.platform.schema import from_dict, schema_of, to_dict
from vigc.platform.storage import Folder

ITEMS_FILE, PREDICTIONS_FILE, SCORES_FILE, JUDGEMENTS_FILE = (
    "items.parquet",
    "predictions.parquet",
    "scores.json",
    "judgements.jsonl",
)
PASS_FOLDER, IMAGES_FOLDER = "passes/001", "images"
OWN_ENTRIES = frozenset(
    {"passes", "images", "mlflow.json", ".lock", ITEMS_FILE, PREDICTIONS_FILE, SCORES_FILE, JUDGEMENTS_FILE}
)
PREDICTION = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("id", "image", "part", "style", "question", "prompt", "reply")),
        pa.field("candidates", pa.list_(pa.string())),
        pa.field("logprobs", pa.list_(pa.float64())),
        pa.field("error", pa.string()),
        pa.field("truth", pa.string()),
        pa.field("score", pa.float64()),
    ]
)


def write_items(folder: Folder, items: Sequence[Item]) -> None:
    buffer = BytesIO()
    pq.write_table(pa.Table.from_pylist([to_dict(item) for item in items], schema=schema_of(Item)), buffer)
    folder.write(ITEMS_FILE, buffer.getvalue())


def read_items(folder: Folder) -> list[Item]:
    """Raises StoreError where there is no evaluation."""
    try:
        with readable(f"{folder}/{ITEMS_FILE}"):
            table = pq.read_table(BytesIO(folder.read(ITEMS_FILE)))
    except FileNotFoundError as error:
        raise StoreError(f"{folder} holds no evaluation. Make one with: vigc evaluate MODEL --out {folder}") from error
    return [from_dict(Item, values) for values in table.to_pylist()]


def existing_pass(folder: Folder) -> Pass | None:
    """Raises StoreError where the folder holds something else."""
    try:
        return read_pass(folder / PASS_FOLDER)
    except FileNotFoundError:
        pass
    if foreign := [name for name in folder.names() if name not in OWN_ENTRIES]:
        raise StoreError(f"{folder} holds {foreign[0]!r}, which is no evaluation. Name an empty or a new folder.")
    return None


def by_image(items: Iterable[Item]) -> dict[str, list[Item]]:
    grouped: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        grouped[item.image].append(item)
    return dict(grouped)


def records_of(items: Iterable[Item]) -> list[ImageRecord]:
    """One for each image, in the order of the items."""
    return [ImageRecord(image, some[0].uri) for image, some in by_image(items).items()]


def as_conversation(item: Item, reply: Reply) -> Conversation:
    """A reply as the rows of a pass hold it; candidates are its steps, the likeliest one kept."""
    steps = [
        CorrectionStep(text, text if number == reply.best else "", Stop.END, 1, logprob)
        for number, (text, logprob) in enumerate(zip(item.candidates, reply.logprobs, strict=False))
    ]
    return Conversation(
        kind=Kind.KNOWLEDGE,
        instruction=reply.prompt,
        question=item.id,
        vig_answer="",
        one_shot_answer=None,
        answer=reply.text,
        steps=steps,
        status=Verdict.KEPT if reply.error is None else Verdict.REJECTED,
        reasons=[] if reply.error is None else [reply.error],
    )


def read_replies(pass_: Pass, items: Sequence[Item]) -> Answered:
    """Each item with its reply, in the items' order.

    Raises:
        StoreError: some are not there yet.
    """
    replies: dict[str, Reply] = {}
    grouped = by_image(items)
    for row in pass_.rows(["image_id", "status", "error", "conversations"]):
        if row["status"] == RowStatus.FAILED:
            error = f"{row['error']['kind']}: {row['error']['message']}"
            replies |= {item.id: Reply(error=error) for item in grouped[row["image_id"]]}
        for spoken in row["conversations"]:
            replies[spoken["question"]] = Reply(
                text=spoken["answer"],
                prompt=spoken["instruction"],
                logprobs=[step["mean_logprob"] for step in spoken["steps"]],
                error=spoken["reasons"][0] if spoken["status"] == Verdict.REJECTED else None,
            )
    if lacking := [item.id for item in items if item.id not in replies]:
        raise StoreError(
            f"{pass_.folder}: {len(lacking)} of {len(items)} questions have no answer yet (the first: {lacking[0]}). "
            "Run the command that began the evaluation again; it goes on."
        )
    return [(item, replies[item.id]) for item in items]


def write_predictions(folder: Folder, answered: Answered, item_scores: Mapping[str, float]) -> None:
    rows = [
        {
            "id": item.id,
            "image": item.image,
            "part": item.part,
            "style": item.style.value,
            "question": item.question,
            "prompt": reply.prompt,
            "reply": reply.text,
            "candidates": item.candidates,
            "logprobs": reply.logprobs,
            "error": reply.error,
            "truth": item.truth,
            "score": item_scores.get(item.id),
        }
        for item, reply in sorted(answered, key=lambda pair: pair[0].id)
    ]
    buffer = BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=PREDICTION), buffer, compression="zstd")
    folder.write(PREDICTIONS_FILE, buffer.getvalue())


def write_scores(folder: Folder, scores: Mapping[str, Any]) -> None:
    folder.write(SCORES_FILE, (json.dumps(scores, indent=2, ensure_ascii=False) + "\n").encode())
