"""A Hugging Face dataset: a folder of Parquet files that hold the images, and a card.

`datasets.load_dataset("OUT")` reads it as it is, from this machine or from the hub. Each example has its image, its
question and answers in flat columns, and the same as `messages`, which trl's SFTTrainer takes together with `images`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vigc.platform.exports.examples import Example
from vigc.platform.exports.images import ImageFile
from vigc.platform.storage import NewFolder

SHARD_BYTES = 512 * 2**20
GROUP_BYTES = 32 * 2**20  # of a row group: what a reader holds at once
GROUP_ROWS = 1000
TEXT_BYTES = 1000  # of an example, about

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CONTENT = pa.list_(pa.struct([("type", pa.string()), ("text", pa.string())]))
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", CONTENT)]))

Columns = Mapping[str, tuple[pa.DataType, str]]
IMAGES_COLUMN = (pa.list_(IMAGE), "the image, as it is at the source (a list of one)")
IMAGE_ID = (pa.string(), "the path of the image below the folder that the images came from")

JOINED: Columns = {
    "images": IMAGES_COLUMN,
    "messages": (MESSAGES, "the conversation: roles, and content in parts; the image is a part of the first"),
    "id": (pa.string(), "of the example"),
    "image_id": IMAGE_ID,
    "kinds": (pa.list_(pa.string()), "what each question is about"),
}
ALONE: Columns = {
    **{name: column for name, column in JOINED.items() if name != "kinds"},
    "kind": (pa.string(), "what the question is about"),
    "question": (pa.string(), "asked by VIG"),
    "answer": (pa.string(), "by VIC: the corrected one"),
    "vig_answer": (pa.string(), "by VIG: before correction"),
    "objects_absent": (
        pa.list_(pa.string()),
        "objects that the answer names and that are not annotated; null: not measured",
    ),
}

Row = Mapping[str, Any]


def row_of(example: Example, image_file: ImageFile, multi_turn: bool) -> dict[str, Any]:
    row = {
        "images": [image(example, image_file)],
        "messages": [message for number, turn in enumerate(example.turns) for message in spoken(*turn, number == 0)],
        "id": example.id,
        "image_id": example.image_id,
    }
    if multi_turn:
        return row | {"kinds": [one["kind"] for one in example.conversations]}
    ((question, answer),) = example.turns
    (one,) = example.conversations
    return row | {
        "kind": one["kind"],
        "question": question,
        "answer": answer,
        "vig_answer": one["vig_answer"],
        "objects_absent": absent(one["sentences"]),
    }


def image(example: Example, image_file: ImageFile) -> dict[str, Any]:
    return {"bytes": image_file.data, "path": example.image_id.rpartition("/")[2]}


def spoken(question: str, answer: str, with_image: bool) -> list[dict[str, Any]]:
    parts = [{"type": "image", "text": None}] if with_image else []
    return [
        {"role": "user", "content": [*parts, {"type": "text", "text": question}]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]


def absent(sentences: Iterable[Mapping[str, Any]]) -> list[str] | None:
    """All mentions of what is not there; None where that was not measured."""
    found = [sentence["objects_absent"] for sentence in sentences]
    if any(one is None for one in found):
        return None
    return [category for one in found for category in one]


def write_shards(
    rows: Iterable[Row],
    columns: Columns,
    folder: NewFolder,
    shard_bytes: int = SHARD_BYTES,
) -> int:
    """Writes `data/train-00000.parquet` and so on, and returns how many rows they hold."""
    schema = pa.schema([(name, type_) for name, (type_, _) in columns.items()]).with_metadata(_metadata(columns))
    num = num_shards = num_bytes = 0
    waiting: list[Row] = []
    waiting_bytes = 0
    with ExitStack() as open_shard:
        writer: pq.ParquetWriter | None = None

        def flush() -> None:
            nonlocal writer, num_shards, num_bytes, waiting_bytes
            if writer is None or num_bytes >= shard_bytes:
                open_shard.close()
                path = open_shard.enter_context(folder.file(f"data/train-{num_shards:05}.parquet"))
                writer = open_shard.enter_context(pq.ParquetWriter(path, schema, compression="zstd"))
                num_shards, num_bytes = num_shards + 1, 0
            writer.write_table(pa.Table.from_pylist([dict(row) for row in waiting], schema=schema))
            num_bytes += waiting_bytes
            waiting_bytes = 0
            waiting.clear()

        for row in rows:
            waiting.append(row)
            waiting_bytes += sum(len(one["bytes"]) for one in row["images"]) + TEXT_BYTES
            num += 1
            if waiting_bytes >= GROUP_BYTES or len(waiting) >= GROUP_ROWS:
                flush()
        if waiting or writer is None:  # also a data set without an example has its columns
            flush()
    return num


def _metadata(columns: Columns) -> dict[bytes, bytes]:
    """What tells `datasets` that a struct of bytes is an image."""
    features = {name: _feature(type_) for name, (type_, _) in columns.items()}
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


def _feature(type_: pa.DataType) -> Any:
    if type_ == IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(type_):
        return {"_type": "List", "feature": _feature(type_.value_type)}
    if pa.types.is_struct(type_):
        return {field.name: _feature(field.type) for field in type_}
    return {"_type": "Value", "dtype": str(type_)}


def write(
    examples: Iterable[tuple[Example, ImageFile]],
    folder: NewFolder,
    *,
    multi_turn: bool,
    shard_bytes: int = SHARD_BYTES,
) -> int:
    """Returns how many examples were written."""
    rows = (row_of(*one, multi_turn) for one in examples)
    return write_shards(rows, JOINED if multi_turn else ALONE, folder, shard_bytes)
