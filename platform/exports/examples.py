"""What every training file is made of: examples, each an image and the turns that are spoken about it.

Only kept conversations of images that could be read become examples. `alone` gives one for each conversation; `joined`
gives one for each image, with all its kinds one after the other.
"""

from __future__ import annotations

import json
import re
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vigc.platform.dataset.store import Store
from vigc.platform.records import ConfigError, Kind, RowStatus, Verdict

IMAGE_TOKEN = "<image>"
COLUMNS = ("image_id", "uri", "width", "height", "objects", "captions", "status", "conversations")
EMPTY = "without a question or an answer"

_ORDER = {kind.value: number for number, kind in enumerate(Kind)}


@dataclass(frozen=True, slots=True)
class Example:
    """An image and what is said about it."""

    id: str
    row: Mapping[str, Any]  # with COLUMNS
    conversations: list[dict[str, Any]]  # kept, at least one

    @property
    def image_id(self) -> str:
        return str(self.row["image_id"])

    @property
    def uri(self) -> str:
        return str(self.row["uri"])

    @property
    def turns(self) -> list[tuple[str, str]]:
        """Questions and answers, without the image token: trainers put the image wherever it stands."""
        return [(clean(question_of(one)), clean(one["answer"])) for one in self.conversations]


_PART_OF_FILE = re.compile(r"#(\d+\+\d+|row=\d+&column=.*)$")


def path_of(example: Example) -> str:
    """What a trainer opens: the path below the folder of the images, or else the whole path or address.

    Raises:
        ConfigError: the image lies inside a tar or a table, where no path leads.
    """
    if example.uri.endswith(f"/{example.image_id}"):
        return example.image_id
    if is_part_of_file(example.uri):
        raise ConfigError(
            f"The image {example.image_id} lies inside {example.uri.partition('#')[0]}, where no path leads. Export "
            "with --format webdataset or huggingface, which bring the images, or with --format openai --embed."
        )
    return example.uri


def is_part_of_file(uri: str) -> bool:
    """Whether it names bytes of a tar, or a cell of a table."""
    return _PART_OF_FILE.search(uri) is not None


def clean(text: str) -> str:
    return text.replace(IMAGE_TOKEN, "").strip()


def question_of(conversation: Mapping[str, Any]) -> str:
    """What was asked; where the model asked nothing that could be read, what it was told."""
    return str(conversation["question"] or conversation["instruction"])


def alone(store: Store, left_out: Counter[str]) -> Iterator[Example]:
    """One example for each conversation. Those that are left out are counted by their reason."""
    for row in store.rows(COLUMNS):
        for one in _kept(row, left_out):
            yield Example(f"{row['image_id']}:{one['kind']}", row, [one])


def joined(store: Store, left_out: Counter[str]) -> Iterator[Example]:
    """One example for each image."""
    for row in _whole_rows(store):
        if kept := sorted(_kept(row, left_out), key=lambda one: _ORDER.get(one["kind"], len(_ORDER))):
            yield Example(row["image_id"], row, kept)


def _kept(row: Mapping[str, Any], left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    if row["status"] != RowStatus.OK:
        return
    for one in row["conversations"]:
        if one["status"] != Verdict.KEPT:
            continue
        if clean(question_of(one)) and clean(one["answer"]):
            yield one
        else:
            left_out[EMPTY] += 1


def _whole_rows(store: Store) -> Iterable[dict[str, Any]]:
    """Rows with all conversations of their image, which several passes may have made.

    Those of one pass come whole. Else they are put together on the disk, so that memory stays bounded.
    """
    if len(store.existing_passes()) == 1:
        yield from store.rows(COLUMNS)
        return
    with tempfile.TemporaryDirectory(prefix="vigc-") as scratch, closing(sqlite3.connect(Path(scratch) / "rows")) as db:
        db.execute("create table rows (image_id text, row text)")
        db.executemany(
            "insert into rows values (?, ?)", ((row["image_id"], json.dumps(row)) for row in store.rows(COLUMNS))
        )
        db.execute("create index by_image on rows (image_id)")
        current: dict[str, Any] | None = None
        for (text,) in db.execute("select row from rows order by image_id, rowid"):
            row: dict[str, Any] = json.loads(text)
            if current is None or current["image_id"] != row["image_id"]:
                if current is not None:
                    yield current
                current = row
            elif row["status"] == RowStatus.OK:  # of a failed retry nothing is joined
                current = row | {"conversations": [*current["conversations"], *row["conversations"]]}
        if current is not None:
            yield current
