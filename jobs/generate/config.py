"""What `vigc generate` can be told: one typed model, filled from flags and a YAML file, defaults in one place.

A key of the file is the name of a flag; a flag wins. Light on purpose: `vigc --help` shows these defaults, so nothing
heavy is imported here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from vigc.platform.records import ConfigError, Kind

PolicyValue = bool | int | float | str


class GenerateConfig(BaseModel):
    """The settings of one `vigc generate`. Paths are relative to where the command runs."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=lambda name: name.replace("_", "-"), validate_by_name=True
    )

    images: str  # a folder, a manifest, tar files, ...: see platform/sources
    out: str
    annotations: str | None = None  # COCO files, with commas between them
    source: Literal["auto", "folder", "coco", "manifest", "webdataset", "huggingface"] = "auto"
    exclude: str | None = None  # a file of ids
    limit: int | None = Field(None, ge=1)
    sample: int | None = Field(None, ge=1)
    shard: str | None = None  # "2/8"
    max_pixels: int | None = Field(None, ge=1)  # None: what images.py allows

    model: str | None = None  # None: the embedded model
    kinds: list[Kind] = [Kind.CONVERSATION, Kind.DETAIL, Kind.REASONING]
    prompts: str | None = None  # None: the project's own pack
    policy: str = "paper"
    policy_options: dict[str, PolicyValue] = Field({}, alias="set")
    grounding: Literal["none", "asked", "blank"] | None = None  # None: the policy's
    correct: list[Literal["verify", "choose", "candidates"]] = []
    objects: str = "auto"  # none, coco, objects365, or a file: the vocabulary that objects are named in
    temperature: float | None = None  # None: the policy's
    top_p: float | None = None  # None: the policy's
    seed: int = 0

    engine: Literal["continuous", "reference", "vllm"] = "continuous"
    vllm_python: str | None = None  # None: VIGC_VLLM_PYTHON, or what `make vllm` makes
    slots: int | None = Field(None, ge=1)  # conversations that one actor decodes at once; None: as memory allows
    engine_memory: float | None = Field(None, gt=0)  # GiB for an actor's slots and images; None: what is free
    actors: str = Field("1", coerce_numbers_to_str=True)  # a number, or "MIN:MAX"
    gpus_per_actor: float | None = Field(None, ge=0)  # None: 1 where this machine has a GPU to use, else 0
    stuck_after: float = Field(5, gt=0)  # minutes without anybody at work, after which the run begins again
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    tracking: str | None = None  # an MLflow URI, or "none"; None: MLFLOW_TRACKING_URI, or a database beside `out`
    price: float | None = Field(None, ge=0)  # of a GPU-hour, or of a machine-hour where there is no GPU

    @field_validator("images", "out", mode="after")
    @classmethod
    def _is_named(cls, value: str) -> str:
        if not value:
            raise ValueError("an empty name")
        return value

    @property
    def actor_range(self) -> tuple[int, int]:
        """The least and the most actors."""
        least, _, most = self.actors.partition(":")
        return int(least), int(most or least)

    @field_validator("shard", mode="after")
    @classmethod
    def _is_shard(cls, value: str | None) -> str | None:
        found = re.fullmatch(r"(\d+)/(\d+)", value) if value is not None else None
        if value is not None and (found is None or not 1 <= int(found[1]) <= int(found[2])):
            raise ValueError(f"{value!r} is no shard; use i/n with 1 <= i <= n, like 2/8")
        return value

    @field_validator("actors", mode="after")
    @classmethod
    def _is_range(cls, value: str) -> str:
        found = re.fullmatch(r"(\d+)(?::(\d+))?", value)
        if found is None or not 1 <= int(found[1]) <= int(found[2] or found[1]):
            raise ValueError(f"{value!r} is no number of actors; use a number from 1 on, or MIN:MAX like 1:8")
        return value

    @field_validator("device", mode="after")
    @classmethod
    def _is_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
            raise ValueError(f"there is no device {value!r}; use auto, cpu or cuda")
        return value

    @field_validator("kinds", "correct", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        return [name.strip() for name in value.split(",")] if isinstance(value, str) else value

    @field_validator("kinds", mode="after")
    @classmethod
    def _order_kinds(cls, value: list[Kind]) -> list[Kind]:
        if not value:
            raise ValueError(f"needs at least one of {', '.join(Kind)}")
        return [kind for kind in Kind if kind in value]  # the same kinds in another order are the same request

    @field_validator("policy_options", mode="before")
    @classmethod
    def _read_options(cls, value: object) -> object:
        if not isinstance(value, list | tuple):
            return value
        pairs = [str(item).partition("=") for item in value]
        if wrong := [name for name, equals, _ in pairs if not equals]:
            raise ValueError(f"{wrong[0]!r} is not of the form option=value")
        return {name.strip(): text.strip() for name, _, text in pairs}


FLAGS = tuple(str(field.alias) for field in GenerateConfig.model_fields.values())


def default_of(name: str) -> str:
    """A field's default as help shows it."""
    default = GenerateConfig.model_fields[name].get_default(call_default_factory=True)
    return ",".join(default) if isinstance(default, list) else str(default)


def make_config(
    flags: Mapping[str, Any], file: Path | None = None, earlier: Mapping[str, Any] | None = None
) -> GenerateConfig:
    """Flags over the file's values over an earlier run's over the defaults.

    Args:
        flags: by field name; None and an empty sequence mean not given.
        earlier: by alias, as `model_dump` gave them.
    Raises:
        ConfigError: the file cannot be read, or a key or value cannot be used; says which line or which flag.
    """
    values, lines = _read_file(file) if file is not None else ({}, {})
    fields = GenerateConfig.model_fields
    given = {str(fields[name].alias): value for name, value in flags.items() if value not in (None, (), [])}
    try:
        return GenerateConfig.model_validate({**(earlier or {}), **values, **given})
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        if first["type"] == "missing":
            how = "Name the folder of images" if key == "images" else f"Say where the data go with --{key}"
            raise ConfigError(f"{'IMAGES' if key == 'images' else f'--{key}'} is missing. {how}.") from error
        place = f"{file}:{lines[key]}: {key}" if key in lines and key not in given else f"--{key}"
        raise ConfigError(f"{place}: {_in_words(first)}.") from error


def _in_words(fault: Mapping[str, Any]) -> str:
    if fault["type"] == "enum":
        return f"there is no {fault['input']!r}; use {', '.join(Kind)}"
    message = re.sub(r"^(Value error, |Input )", "", str(fault["msg"]))
    return f"{message}, not {fault['input']!r}" if fault["type"] != "value_error" else message


def _read_file(file: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The file's values, and the line of each key."""
    try:
        loader = yaml.SafeLoader(file.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        if root is None:
            return {}, {}
        lines = _lines_of_keys(file, root)
        values: dict[str, Any] = loader.construct_document(root)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{file}: the configuration cannot be read ({reason}). Pass a YAML file with lines like `kinds: detail`."
        ) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{file}:{line}: not valid YAML: {error.problem}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not valid YAML: {' '.join(str(error).split())}.") from error
    return values, lines


def _lines_of_keys(file: Path, root: yaml.Node) -> dict[str, int]:
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{file}:1: the file must hold lines of the form `flag: value`.")
    lines: dict[str, int] = {}
    for key, value in root.value:
        if isinstance(value, yaml.ScalarNode) and re.fullmatch(r"\d+:\d+", value.value):
            value.tag = "tag:yaml.org,2002:str"  # `actors: 1:16`, which YAML 1.1 takes for 76, as of minutes
        line = key.start_mark.line + 1
        if key.value not in FLAGS:
            raise ConfigError(f"{file}:{line}: unknown key {key.value!r}; known are {', '.join(FLAGS)}.")
        if key.value in lines:
            raise ConfigError(f"{file}:{line}: {key.value!r} stands twice, first in line {lines[key.value]}.")
        lines[key.value] = line
    return lines
