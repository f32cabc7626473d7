"""How a setting is described, for a command line, a file and Python alike, and how a range is written.

Each verb's settings, and those of the parts that have their own, are pydantic models whose fields `flag` makes.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field


def flag(
    description: str,
    default: Any = ...,
    *,
    metavar: str | None = None,
    panel: str | None = None,
    shown: str | None = None,
    positional: bool = False,
    in_file: bool = True,
    split: bool = True,
    **limits: Any,
) -> Any:
    """A field of a model of settings.

    Args:
        description: a whole phrase; the help.
        metavar: what stands for the value in the help; by default what the type says.
        panel: the heading that it is under.
        shown: what the help says of a default that is None.
        positional: given by its place, without the flag's name.
        in_file: False for what one command does once, such as --overwrite; it is no key of a file.
        split: False for a list whose items may hold commas.
        limits: of pydantic, such as ge=1, and its alias or default_factory.
    """
    more: dict[str, Any] = {
        "metavar": metavar,
        "panel": panel,
        "shown": shown,
        "positional": positional,
        "split": split,
    }
    if "default_factory" not in limits:
        limits["default"] = default
    return Field(description=description, json_schema_extra=more | {"in_file": in_file}, **limits)


def read_range(value: Any) -> tuple[float, float]:
    """The least and the most.

    Raises:
        ValueError: neither a number above 0 nor two of them in order.
    """
    parts = value.split(":") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    try:
        least, most = (float(part) for part in (parts if len(parts) != 1 else [*parts, *parts]))
    except (TypeError, ValueError):
        least, most = 0.0, 0.0
    if not 0 < least <= most:
        raise ValueError(f"{value!r} is no range; give one number, or the least and the most as in 1:8")
    return least, most


def read_pair(value: Any) -> tuple[float, float]:
    """Two prices.

    Raises:
        ValueError: not two numbers of at least 0.
    """
    parts = value.split(",") if isinstance(value, str) else value
    try:
        one, other = (float(part) for part in parts)
    except (TypeError, ValueError):
        one, other = -1.0, -1.0
    if not (0 <= one < math.inf and 0 <= other < math.inf):
        raise ValueError(f"{value!r} is not two prices; give them as in 0.15,0.60")
    return one, other


PricePair = Annotated[tuple[float, float], BeforeValidator(read_pair)]
Counts = Annotated[tuple[int, int], BeforeValidator(read_range)]
Rates = Annotated[tuple[float, float], BeforeValidator(read_range)]
