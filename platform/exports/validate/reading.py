"""Training files of any of the usual layouts, read as one kind of record, a row at a time whatever their size.

LLaVA and ShareGPT have `conversations` with `from` and `value`, chat data `messages` with `role` and `content`, trl's
preference data `prompt`, `chosen` and `rejected`. Files are a JSON list, JSON Lines, Parquet, or a folder of Parquet.
What a row makes impossible to read is said in its record, not raised.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from vigc.platform.exports.examples import IMAGE_TOKEN
from vigc.platform.records import InputError
from vigc.platform.sources.addresses import absolute, is_folder, open_stream, readable, suffix
from vigc.platform.sources.json_stream import JsonFault, list_entries
from vigc.platform.storage import open_file, open_folder

ROWS_AT_ONCE = 256
MAX_LINE_BYTES = 64 * 2**20

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"
_ROLES = {"human": USER, "user": USER, "gpt": ASSISTANT, "assistant": ASSISTANT, "model": ASSISTANT, "system": SYSTEM}


@dataclass(frozen=True, slots=True)
class Turn:
    role: str  # USER, ASSISTANT, SYSTEM, or what the file says
    text: str
    num_marks: int  # places where an image is put


@dataclass(frozen=True, slots=True)
class ImageReference:
    name: str | None  # a path or an address, as the file has it
    data: bytes | None = None  # where the file holds the image itself

    @property
    def is_inline(self) -> bool:
        return self.data is not None or (self.name or "").startswith("data:")


@dataclass(frozen=True, slots=True)
class Record:
    row: int  # from 0
    id: str | None = None
    images: list[ImageReference] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    rejected: list[Turn] | None = None  # of a preference pair, in place of the last turns
    fault: str | None = None  # why the rest could not be read


def read(place: str) -> Iterator[Record]:
    """Every row of a file or folder. Raises InputError where it cannot be read at all."""
    place = absolute(place)
    for row, values in enumerate(_rows(place)):
        if isinstance(values, str):
            yield Record(row, fault=values)
            continue
        try:
            yield _record(row, values)
        except _Odd as odd:
            yield Record(row, fault=str(odd))


class _Odd(Exception):
    """A row in no layout that is known."""


def _rows(place: str) -> Iterator[Any]:
    """Values of rows; a text says why there is none."""
    if is_folder(place):
        folder = open_folder(place)
        names = [entry.name for entry in folder.files() if entry.name.endswith(".parquet")]
        if not names:
            raise InputError(f"{place}: no Parquet file is in this folder. Name a file, or a Hugging Face dataset.")
        for name in names:
            yield from _parquet(f"{place}/{name}")
    elif suffix(place) == ".parquet":
        yield from _parquet(place)
    else:
        yield from _json(place)


def _parquet(place: str) -> Iterator[Any]:
    folder, name = open_file(place)
    with readable(place):
        for batch in folder.open_parquet(name).iter_batches(ROWS_AT_ONCE):
            yield from batch.to_pylist()


def _json(place: str) -> Iterator[Any]:
    with readable(place), open_stream(place) as file:
        first = file.read(1)
        while first and (first.isspace() or first in codecs.BOM_UTF8):
            first = file.read(1)
        if not first:
            raise InputError(f"{place}: the file is empty.")
        whole = _Pushed(first, file)
        if first != b"[":
            yield from _json_lines(whole)
            return
        try:
            yield from list_entries(whole, "row")
        except (JsonFault, UnicodeDecodeError) as error:
            yield f"not JSON from here on: {error}"


def _json_lines(file: _Pushed) -> Iterator[Any]:
    for line in file.lines():
        try:
            yield json.loads(line)
        except (ValueError, RecursionError) as error:
            yield f"not JSON: {error}"


class _Pushed:
    """A stream whose first bytes were already read."""

    def __init__(self, first: bytes, file: IO[bytes]) -> None:
        self._first, self._file = first, file

    def read(self, num_bytes: int = -1) -> bytes:
        first, self._first = self._first, b""
        return first + self._file.read(num_bytes)

    def lines(self) -> Iterator[bytes]:
        """Lines that are not blank."""
        line = self._first + self._file.readline(MAX_LINE_BYTES)
        while line:
            if line.strip():
                yield line
            line = self._file.readline(MAX_LINE_BYTES)


def _record(row: int, values: Any) -> Record:
    if not isinstance(values, Mapping):
        raise _Odd("not an object")
    images = _images(values)
    id_ = None if values.get("id") is None else str(values["id"])
    if values.get("prompt") is not None and "chosen" in values and "rejected" in values:
        prompt, chosen, rejected = (_turns(values[name], name) for name in ("prompt", "chosen", "rejected"))
        return Record(row, id_, images, [*prompt, *chosen], rejected)
    for name in ("conversations", "messages"):
        if values.get(name) is not None:
            turns = _turns(values[name], name)
            if isinstance(values.get("chosen"), Mapping) and isinstance(values.get("rejected"), Mapping):
                # LLaMA-Factory's preference data: the answers stand beside the conversation.
                better, worse = (_turn(values[answer], answer) for answer in ("chosen", "rejected"))
                return Record(row, id_, [*images, *_inline(values[name])], [*turns, better], [worse])
            system = values.get("system")
            if isinstance(system, str) and system.strip():
                turns.insert(0, Turn(SYSTEM, system, 0))
            inline = list(_inline(values[name]))
            return Record(row, id_, [*images, *inline], turns)
    raise _Odd("has neither 'conversations' nor 'messages' nor 'prompt', 'chosen' and 'rejected'")


def _turns(values: Any, name: str) -> list[Turn]:
    if isinstance(values, str) and name in ("prompt", "chosen", "rejected"):  # a pair in plain text
        role = USER if name == "prompt" else ASSISTANT
        return [Turn(role, _without_marks(values), values.count(IMAGE_TOKEN))]
    if not isinstance(values, list) or not values:
        raise _Odd(f"{name!r} is not a list of turns")
    return [_turn(value, f"{name}[{number}]") for number, value in enumerate(values)]


def _turn(value: Any, place: str) -> Turn:
    if not isinstance(value, Mapping):
        raise _Odd(f"{place} is not an object")
    role = value.get("from", value.get("role"))
    content = value.get("value", value.get("content"))
    if not isinstance(role, str):
        raise _Odd(f"{place} does not say who speaks")
    role = _ROLES.get(role, role)
    if content is None:
        return Turn(role, "", 0)
    if isinstance(content, str):
        return Turn(role, _without_marks(content), content.count(IMAGE_TOKEN))
    if not isinstance(content, list) or not all(isinstance(part, Mapping) for part in content):
        raise _Odd(f"{place} holds no text")
    texts = [str(part.get("text") or "") for part in content if part.get("type") == "text"]
    num_marks = sum(part.get("type") in ("image", "image_url") for part in content)
    num_marks += sum(text.count(IMAGE_TOKEN) for text in texts)
    return Turn(role, _without_marks("\n".join(texts)), num_marks)


def _without_marks(text: str) -> str:
    return text.replace(IMAGE_TOKEN, "").strip()


def _images(values: Mapping[str, Any]) -> list[ImageReference]:
    found: list[Any] = []
    for name in ("image", "images"):
        value = values.get(name)
        if value is not None:
            found += value if isinstance(value, list) else [value]
    return [_image(one) for one in found]


def _image(value: Any) -> ImageReference:
    if isinstance(value, str):
        return ImageReference(value)
    if isinstance(value, Mapping):
        data = value.get("bytes")
        name = value.get("path") or value.get("url") or value.get("image")
        if isinstance(data, bytes):
            return ImageReference(None if name is None else str(name), data)
        if isinstance(name, str):
            return ImageReference(name)
    raise _Odd(f"an image is {type(value).__name__}, neither a path nor bytes")


def _inline(turns: Any) -> Iterator[ImageReference]:
    """Images that stand in the turns: OpenAI's `image_url`, Qwen's `image`."""
    for turn in turns:
        content = turn.get("content") if isinstance(turn, Mapping) else None
        for part in content if isinstance(content, list) else ():
            if not isinstance(part, Mapping):
                continue
            where = part.get("image_url", part.get("image") if part.get("type") == "image" else None)
            where = where.get("url") if isinstance(where, Mapping) else where
            if isinstance(where, str) and where:
                yield ImageReference(where)
