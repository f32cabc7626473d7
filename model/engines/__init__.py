"""Engines answer requests about images. `continuous` is the default, `reference` the oracle."""

from __future__ import annotations

from vigc.model.engines.base import BLANK, Engine, ImageHandle
from vigc.model.engines.continuous import ContinuousEngine
from vigc.model.engines.reference import ReferenceEngine
from vigc.model.network import Network
from vigc.platform.records import ConfigError

ENGINES = ("continuous", "reference")


def make_engine(
    name: str,
    network: Network,
    *,
    num_slots: int | None = None,
    memory_bytes: int | None = None,
    num_threads: int | None = None,
) -> Engine:
    """An engine by name.

    Args:
        num_slots: what is decoded at once (the reference engine takes one at a time); None lets memory decide.
        memory_bytes: for slots and images; None: what is free.
    Raises:
        ConfigError: an unknown name.
    """
    if name == "continuous":
        return ContinuousEngine(network, num_slots=num_slots, memory_bytes=memory_bytes, num_threads=num_threads)
    if name == "reference":
        return ReferenceEngine(network, num_threads=num_threads)
    raise ConfigError(f"The engine {name!r} is unknown; there are {', '.join(ENGINES)}.")


__all__ = ["BLANK", "ENGINES", "ContinuousEngine", "Engine", "ImageHandle", "ReferenceEngine", "make_engine"]
