"""Ranges as users write them, one way everywhere: `4`, or the least and the most as in `1:8`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator


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


Counts = Annotated[tuple[int, int], BeforeValidator(read_range)]
Rates = Annotated[tuple[float, float], BeforeValidator(read_range)]
