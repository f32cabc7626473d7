"""A verb's settings as one typed model: its flags, the keys of its `--config` file and its keywords in Python.

A field is a setting. Its name is the flag's and the key in the file, its description is the flag's help, its type says
how it is written: a list with commas (the flag may be repeated), a dict as NAME=VALUE, a range as MIN:MAX.
What the command line says wins over the file, and the file over the defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from vigc.jobs.settings.file import nearest, read_file
from vigc.jobs.settings.options import fault_in_words, read_assignments, split
from vigc.platform.records import ConfigError

Flags = Mapping[str, Any]  # by the flags' names, without dashes before them
C = TypeVar("C", bound="Config")

MOST_OF_METAVAR = 28  # characters; a longer one would leave no room for the help
METAVARS = {int: "<int>", float: "<float>", Path: "FILE"}


def flag_name(name: str) -> str:
    """Of a field: `max_pixels` is --max-pixels, and `json_`, which a model has already, is --json."""
    return name.rstrip("_").replace("_", "-")


class Config(BaseModel):
    """The settings of a verb. Paths are relative to where the command runs.

    Raises:
        ConfigError: a value that cannot be used, or a name that is none; in one line.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=flag_name, validate_by_name=True, validate_by_alias=True
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(_in_words(type(self), error, lambda name: name.replace("-", "_"))) from error

    @field_validator("*", mode="before")
    @classmethod
    def _as_written(cls, value: object, info: ValidationInfo) -> object:
        field = cls.model_fields[str(info.field_name)]
        if is_list(field) and isinstance(value, str) and extra(field, "split", True):
            return split(value)
        return read_assignments(value) if is_mapping(field) else value

    @classmethod
    def flags(cls) -> dict[str, FieldInfo]:
        """The settings by their flags' names, a verb's own before what it shares; without a description it is none."""
        homes = [vars(base).get("__annotations__", {}) for base in cls.__mro__]

        def rank(name: str) -> int:  # arguments stay in the order of the fields, which is that of the command line
            is_argument = extra(cls.model_fields[name], "positional")
            return -1 if is_argument else next(place for place, home in enumerate(homes) if name in home)

        fields = [(name, cls.model_fields[name]) for name in sorted(cls.model_fields, key=rank)]
        return {str(field.alias or name): field for name, field in fields if field.description}

    @classmethod
    def file_keys(cls) -> list[str]:
        """The names that a file may hold."""
        return [name for name, field in cls.flags().items() if extra(field, "in_file", True)]

    def as_file(self) -> dict[str, Any]:
        """What a file would hold that asks for the same."""
        values = self.model_dump(mode="json", by_alias=True)
        return {name: values[name] for name in self.file_keys()}


def read_config(config: type[C], flags: Flags, file: Path | None = None, earlier: Flags | None = None) -> C:
    """Flags over the file's values over an earlier run's over the defaults.

    Args:
        earlier: as `as_file` gave them.
    Raises:
        ConfigError: the file cannot be read, or a key or value cannot be used; says which line or which flag.
    """
    values, lines = read_file(file, config.file_keys()) if file is not None else ({}, {})

    def place(name: str) -> str:
        if name in lines and name not in flags:
            return f"{file}:{lines[name]}: {name}"
        field = config.flags().get(name)
        return metavar(field) if field is not None and extra(field, "positional") else f"--{name}"

    try:
        return config(**{**(earlier or {}), **values, **flags})
    except ConfigError as error:
        if isinstance(error.__cause__, ValidationError):
            raise ConfigError(_in_words(config, error.__cause__, place)) from error.__cause__
        raise


def _in_words(config: type[Config], error: ValidationError, place: Callable[[str], str]) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    field = config.model_fields.get(name)
    name = str(field.alias) if field is not None else name
    if first["type"] == "extra_forbidden":
        return f"There is no setting {name!r}; {nearest(name, config.file_keys())}."
    if first["type"] == "missing":
        what = str(config.flags()[name].description).partition(". ")[0].rstrip(".")
        return f"{place(name)} is missing ({what[0].lower()}{what[1:]})."
    return f"{place(name)}: {fault_in_words(first)}."


def bare(annotation: Any) -> Any:
    """A type without "or None" and without what is annotated."""
    if get_origin(annotation) is Annotated:
        return bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        kinds = [one for one in get_args(annotation) if one is not NoneType]
        return bare(kinds[0]) if len(kinds) == 1 else annotation
    return annotation


def is_list(field: FieldInfo) -> bool:
    kind = bare(field.annotation)
    return get_origin(kind) is list or (get_origin(kind) is tuple and get_args(kind)[-1] is Ellipsis)


def is_mapping(field: FieldInfo) -> bool:
    return get_origin(bare(field.annotation)) is dict


def extra(field: FieldInfo, key: str, default: Any = None) -> Any:
    """What `flag` said of a field."""
    more = field.json_schema_extra
    return more.get(key, default) if isinstance(more, dict) else default


def metavar(field: FieldInfo) -> str:
    """What stands for the value in the help."""
    if given := extra(field, "metavar"):
        return str(given)
    kind = bare(field.annotation)
    if is_mapping(field):
        return "NAME=VALUE"
    if is_list(field):
        return f"{METAVARS.get(get_args(kind)[0], '<str>')},…"
    choices = "|".join(_choices(kind))
    short = choices if len(choices) <= MOST_OF_METAVAR else ""
    return short or ("N|MIN:MAX" if get_origin(kind) is tuple else METAVARS.get(kind, "<str>"))


def unsaid(field: FieldInfo) -> list[str]:
    """The values that may be chosen, where the metavar does not say them."""
    kind = bare(field.annotation)
    choices = _choices(get_args(kind)[0] if is_list(field) else kind)
    return [] if "|".join(choices) == metavar(field) else choices


def _choices(kind: Any) -> list[str]:
    if get_origin(kind) is Literal:
        return [str(one) for one in get_args(kind)]
    return [one.value for one in kind] if isinstance(kind, type) and issubclass(kind, StrEnum) else []
