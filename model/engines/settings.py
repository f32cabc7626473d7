"""What an engine is told: of which kind, of which model, on what hardware, how much at once.

It is decided once, before anything heavy starts, and handed on whole to the process that starts the engine
(`start.py`). Light to import: no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from vigc.model.completion import CPU_SLOTS, GPU_SLOTS

ENGINES = ("continuous", "reference", "vllm")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """See the module."""

    engine: str = "continuous"  # one of ENGINES, or what else the room that starts it knows
    model: str  # a folder or hub id
    device: str = "auto"  # auto: what the process finds
    dtype: str = "auto"
    num_slots: int | None = None  # conversations that are decoded at once; None: as many as memory allows
    memory_gib: float | None = None  # for slots and images; None: what is free
    num_threads: int | None = None  # None: all cores
    vllm_python: str | None = None  # of the environment that vLLM is installed in; None: see vllm/environment.py

    @property
    def most_slots(self) -> int:
        """What the engine may have at most: as many conversations are kept in supply."""
        if self.engine == "reference":
            return 1
        return self.num_slots or (GPU_SLOTS if self.device.startswith("cuda") else CPU_SLOTS)
