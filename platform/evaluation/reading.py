"""What the readers of benchmarks share: JSON Lines, and that no id comes twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vigc.platform.evaluation.items import Files, Item
from vigc.platform.instructions.fields import Origin
from vigc.platform.records import ConfigError, InputError
from vigc.platform.text_lines import lines_of, read_text

__all__ = ["Origin", "json_lines", "needed", "origin_of", "unique"]


def origin_of(files: Files) -> Origin:
    return Origin(files.questions, files.images)


def needed(value: str | None, flag: str, what: str) -> Path:
    if value is None:
        raise ConfigError(f"--{flag} is missing: {what}.")
    return Path(value).expanduser()


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file, one a line, each with its place. A JSON list is read as well."""
    try:
        text = read_text(path)
    except OSError as error:
        raise InputError(f"{path}: cannot read the file ({error.strerror}). Check the path.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error}). Is it the right file?") from error
    if text.lstrip().startswith("["):
        yield from Origin(path).records(_parsed(path, "the list", text))
        return
    num = 0
    for number, line in enumerate(lines_of(text), 1):
        if line.strip():
            num += 1
            place = f"line {number}"
            record = _parsed(path, place, line)
            if not isinstance(record, dict):
                raise Origin(path).fault(place, "is not an object")
            yield place, record
    if not num:
        raise InputError(f"{path}: holds no record. Is it the right file?")


def _parsed(path: Path, place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise Origin(path).fault(place, f"is not JSON ({error})") from error


def unique(path: Path, placed: Iterator[tuple[str, Item]]) -> list[Item]:
    """The items. Raises InputError where there is none, or an id comes twice."""
    seen: dict[str, str] = {}
    items = []
    for place, item in placed:
        if item.id in seen:
            raise InputError(f"{path}: {place} has the id {item.id!r}, as {seen[item.id]} does. Fix the file.")
        seen[item.id] = place
        items.append(item)
    if not items:
        raise InputError(f"{path}: holds no question. Is it the right file?")
    return items
