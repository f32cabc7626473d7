"""The settings of a run as JSON: they are stored beside its results, and compared when the command is given again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def plain(request: Mapping[str, Any]) -> dict[str, Any]:
    """The request as it reads back from JSON, so that tuples equal lists and enumerations their strings."""
    values: dict[str, Any] = json.loads(json.dumps(request))
    return values


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """One line for each value that is not the same, e.g. `policy.temperature: 0.7 -> 1.0`, in the order of `old`."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        inner = [differences(old.get(key), new.get(key), f"{name}.{key}" if name else key) for key in keys]
        return [difference for found in inner for difference in found]
    return [] if old == new else [f"{name}: {json.dumps(old)} -> {json.dumps(new)}"]
