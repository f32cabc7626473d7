"""The YAML file of `--config`: lines of the form `flag: value`, each fault named with its line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from vigc.platform.records import ConfigError


def read_file(file: Path, known: Sequence[str]) -> tuple[dict[str, Any], dict[str, int]]:
    """Its values, and the line of each key.

    Raises:
        ConfigError: it cannot be read, or has a key that is not known or stands twice.
    """
    try:
        loader = yaml.SafeLoader(file.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        if root is None:
            return {}, {}
        lines = dict(_keys(file, root, known))
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


def _keys(file: Path, root: yaml.Node, known: Sequence[str]) -> Iterator[tuple[str, int]]:
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{file}:1: the file must hold lines of the form `flag: value`.")
    lines: dict[str, int] = {}
    for key, value in root.value:
        if isinstance(value, yaml.ScalarNode) and re.fullmatch(r"\d+:\d+", value.value):
            value.tag = "tag:yaml.org,2002:str"  # `actors: 1:16`, which YAML 1.1 takes for 76, as of minutes
        name, line = str(key.value), key.start_mark.line + 1
        if name not in known:
            raise ConfigError(f"{file}:{line}: unknown key {name!r}; {nearest(name, known)}.")
        if name in lines:
            raise ConfigError(f"{file}:{line}: {name!r} stands twice, first in line {lines[name]}.")
        lines[name] = line
        yield name, line


def nearest(name: str, known: Sequence[str]) -> str:
    """What may have been meant, in words."""
    near = get_close_matches(name, known, n=1)
    return f"the nearest is {near[0]!r}" if near else f"known are {', '.join(known)}"
