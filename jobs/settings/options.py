"""Options: `--set NAME=VALUE` read in one way, and put into a dataclass."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from vigc.platform.records import ConfigError

Value = bool | int | float | str | None
T = TypeVar("T")


def read_assignments(value: object) -> object:
    """`NAME=VALUE` texts, or a mapping that may hold further ones, as one flat mapping: {"optimizer.peak": 1e-5}.

    Raises:
        ValueError: a text without "=".
    """
    if isinstance(value, Mapping):
        flat: dict[str, object] = {}
        for name, one in value.items():
            parts = read_assignments(one) if isinstance(one, Mapping) else {"": one}
            flat |= {f"{name}.{part}".rstrip("."): last for part, last in parts.items()}  # type: ignore[attr-defined]
        return flat
    if not isinstance(value, list | tuple):
        return value
    pairs = [str(item).partition("=") for item in value]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise ValueError(f"{wrong[0]!r} is not of the form option=value")
    return {name.strip(): text.strip() for name, _, text in pairs}


def changed(preset: T, options: Mapping[str, Value], fixed: tuple[str, ...] = ()) -> T:
    """A dataclass with values changed, each read as the type of its field; `part.name` is one of a part.

    Args:
        fixed: fields that are no options.
    Raises:
        ConfigError: no such option, or a value of another type.
    """
    values = asdict(preset)  # type: ignore[call-overload]
    for path, value in options.items():
        _put(values, type(preset), path, value, fixed)
    try:
        return TypeAdapter(type(preset)).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"] if isinstance(part, str))
        raise ConfigError(f"--set {path}: {fault_in_words(first)}.") from error


def _put(values: dict[str, Any], owner: Any, path: str, value: Value, fixed: tuple[str, ...] = ()) -> None:
    head, _, rest = path.partition(".")
    known = [field.name for field in fields(owner) if field.name not in fixed]
    if head not in known:
        raise ConfigError(f"--set {path}: there is no option {head!r}; known are {', '.join(known)}.")
    hint = get_type_hints(owner)[head]
    part = next((one for one in (hint, *get_args(hint)) if is_dataclass(one)), None)
    if rest:
        if part is None:
            raise ConfigError(f"--set {path}: {head} has no parts; use {head}=VALUE.")
        values[head] = values[head] if values[head] is not None else asdict(part())  # type: ignore[operator]
        _put(values[head], part, rest, value)
    elif isinstance(value, str):
        is_list = tuple in (hint, get_origin(hint))
        values[head] = (
            None if value in ("none", "None") and NoneType in get_args(hint) else split(value) if is_list else value
        )
    else:
        values[head] = value


def split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def fault_in_words(fault: Mapping[str, Any]) -> str:
    kind, given = str(fault["type"]), fault["input"]
    if kind in ("enum", "literal_error"):
        return f"there is no {given!r}; use {str(fault['ctx']['expected']).replace(chr(39), '')}"
    if kind.startswith(("int_", "float_", "bool_")):
        what = {"int": "a whole number", "float": "a number", "bool": "true or false"}[kind.partition("_")[0]]
        return f"must be {what}, not {given!r}"
    message = re.sub(r"^(Value error, |Input )", "", str(fault["msg"]))
    return message if kind == "value_error" else f"{message}, not {given!r}"
