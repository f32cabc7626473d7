"""Engines answer requests about images. `continuous` is the default, `reference` the oracle; `vllm` has the language
model in vLLM.
"""

from __future__ import annotations

from pathlib import Path

from vigc.model.engines.base import BLANK, Engine, ImageHandle
from vigc.model.engines.continuous.engine import ContinuousEngine
from vigc.model.engines.continuous.replicas import Lanes, continuous_engine
from vigc.model.engines.reference import ReferenceEngine
from vigc.model.engines.vllm.engine import VllmEngine
from vigc.model.network import Network
from vigc.platform.records import ConfigError

ENGINES = ("continuous", "reference", "vllm")


def make_engine(
    name: str,
    network: Network,
    *,
    num_slots: int | None = None,
    memory_bytes: int | None = None,
    num_threads: int | None = None,
    vllm_python: str | Path | None = None,
) -> Engine:
    """An engine by name.

    Args:
        num_slots: what is decoded at once (the reference engine takes one at a time); None lets memory decide.
        memory_bytes: for slots and images; None: what is free.
        vllm_python: of the environment that vLLM is installed in; None: see `vllm/environment.py`.
    Raises:
        ConfigError: an unknown name, or no such environment.
    """
    if name == "continuous":
        return continuous_engine(network, num_slots=num_slots, memory_bytes=memory_bytes, num_threads=num_threads)
    if name == "reference":
        return ReferenceEngine(network, num_threads=num_threads)
    if name == "vllm":
        return VllmEngine(
            network, python=vllm_python, num_slots=num_slots, memory_bytes=memory_bytes, num_threads=num_threads
        )
    raise ConfigError(f"The engine {name!r} is unknown; there are {', '.join(ENGINES)}.")


__all__ = [
    "BLANK",
    "ENGINES",
    "ContinuousEngine",
    "Engine",
    "ImageHandle",
    "Lanes",
    "ReferenceEngine",
    "VllmEngine",
    "continuous_engine",
    "make_engine",
]
