"""Arrow schemas of the rows, derived from the dataclasses in `records.py`, and the way there and back.

Every table the platform writes has one of these schemas, also when all its rows failed: a column is never typed by the
values that happen to be in it. Enumerations travel as their strings. Where the name of a column is a word of Python's,
its field has an underscore at the end: the field `pass_` is the column `pass`.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import pyarrow as pa

from vigc.platform.records import ImageRecord, Row

T = TypeVar("T")

_ARROW_OF_PYTHON: dict[type, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    bytes: pa.binary(),
}


def schema_of(cls: Any) -> pa.Schema:
    """The Arrow schema of a dataclass, nested dataclasses as structs, in the order of its fields."""
    return pa.schema([pa.field(_column(name), _arrow_type(hint)) for name, hint in _hints(cls).items()])


def to_dict(value: Any) -> Any:
    """A dataclass as plain dicts, lists and strings, the form `pa.Table.from_pylist` and `json` take."""
    cls: Any = type(value)
    if names := _columns(cls):
        return {column: to_dict(getattr(value, name)) for name, column in names.items()}
    if isinstance(value, list):
        return [to_dict(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    return value


def from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
    """The inverse of `to_dict`; keys that are no field of `cls` are left aside."""
    hints, names = _hints(cast(Any, cls)), _columns(cast(Any, cls))
    return cls(**{name: _restore(hints[name], values[column]) for name, column in names.items() if column in values})


def row_from_dict(values: Mapping[str, Any]) -> Row:
    return from_dict(Row, values)


@cache
def _columns(cls: Any) -> dict[str, str]:
    """The column of each field; empty where it is no dataclass."""
    return {field.name: _column(field.name) for field in fields(cls)} if is_dataclass(cls) else {}


def _column(name: str) -> str:
    return name.removesuffix("_")


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


def _without_none(hint: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (arg for arg in get_args(hint) if arg is not type(None))
    return hint


def _arrow_type(hint: Any) -> pa.DataType:
    hint = _without_none(hint)
    if get_origin(hint) is list:
        return pa.list_(_arrow_type(get_args(hint)[0]))
    if is_dataclass(hint):
        return pa.struct(list(schema_of(hint)))
    if issubclass(hint, Enum):
        return pa.string()
    return _ARROW_OF_PYTHON[hint]


def _restore(hint: Any, value: Any) -> Any:
    if value is None:
        return None
    hint = _without_none(hint)
    if get_origin(hint) is list:
        return [_restore(get_args(hint)[0], item) for item in value]
    if is_dataclass(hint):
        return from_dict(cast(type, hint), value)
    return hint(value) if issubclass(hint, Enum) else value


ROW = schema_of(Row)
MANIFEST = schema_of(ImageRecord)
