"""Arrow schemas of the rows, derived from the dataclasses in `records.py`, and the way there and back.

Every table the platform writes has one of these schemas, also when all its rows failed: a column is never typed by the
values that happen to be in it. Enumerations travel as their strings.
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
    return pa.schema([pa.field(name, _arrow_type(hint)) for name, hint in _hints(cls).items()])


def to_dict(value: Any) -> Any:
    """A dataclass as plain dicts, lists and strings, the form `pa.Table.from_pylist` and `json` take."""
    cls: Any = type(value)
    if names := _field_names(cls):
        return {name: to_dict(getattr(value, name)) for name in names}
    if isinstance(value, list):
        return [to_dict(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    return value


def from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
    """The inverse of `to_dict`; keys that are no field of `cls` are left aside."""
    hints = _hints(cast(Any, cls))
    return cls(**{name: _restore(hint, values[name]) for name, hint in hints.items() if name in values})


def row_from_dict(values: Mapping[str, Any]) -> Row:
    return from_dict(Row, values)


@cache
def _field_names(cls: Any) -> tuple[str, ...]:
    """Empty where it is no dataclass."""
    return tuple(field.name for field in fields(cls)) if is_dataclass(cls) else ()


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
