"""Which device the processes that hold a model run on: one rule for every verb.

A driver on a cluster may have no GPU itself while the cluster has many, so the Ray that the job runs on is asked; only
a job that will start a Ray of its own looks at this machine. No torch here, and no Ray where none is joined.
"""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vigc.platform.pipeline.capacity import grows_by_itself, size_of_cluster
from vigc.platform.pipeline.ray_session import ray_session, running_ray
from vigc.platform.records import ConfigError

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Hardware:
    """What each process that holds the model gets."""

    device: str
    dtype: str
    gpus: float  # that Ray keeps for it; may be a fraction
    why: str  # it was chosen, for the user

    @property
    def is_gpu(self) -> bool:
        return _is_gpu(self.device)

    def __str__(self) -> str:
        return f"{self.device} ({self.why})"


def choose_hardware(device: str = "auto", dtype: str = "auto", gpus: float | None = None) -> Hardware:
    """GPUs where the job's Ray has any, unless told otherwise; bfloat16 on them and float32 elsewhere.

    Args:
        device: auto, cpu, cuda, cuda:N or mps.
        gpus: for each process; None: one on a GPU. Who gives a number has decided, and nothing is looked at.
    Raises:
        ConfigError: an unknown name, or a GPU is wanted where there is none and none will come.
        RunError: the cluster at RAY_ADDRESS cannot be reached.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise ConfigError(f"--device {device}: there is no such device. Use auto, cpu or cuda.")
    if dtype not in DTYPES:
        raise ConfigError(f"--dtype {dtype}: there are {', '.join(DTYPES)}.")
    why = "as asked for"
    if device == "auto" and gpus is not None:
        device = "cuda" if gpus else "cpu"
    elif device == "auto" or (_is_gpu(device) and gpus is None):
        there = _gpus_there()
        why = str(there)
        if device == "auto":
            device = "cuda" if there.num else "cpu"
        elif not there.num and not there.may_grow:
            raise ConfigError(f"--device {device}: {there.place} has no GPU. Use --device cpu.")
    chosen_dtype = dtype if dtype != "auto" else ("bfloat16" if _is_gpu(device) else "float32")
    return Hardware(device, chosen_dtype, float(_is_gpu(device)) if gpus is None else gpus, why)


def num_gpus() -> int:
    """NVIDIA GPUs that a process started here would see."""
    present = sum(1 for node in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", node.name))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not present:
        return present
    return len([name for name in visible.split(",") if name.strip() not in ("", "-1", "NoDevFiles")])


@dataclass(frozen=True, slots=True)
class _Gpus:
    """What there is to choose from."""

    num: float
    place: str
    may_grow: bool = False

    def __str__(self) -> str:
        if self.num:
            return f"{self.place} has {self.num:g} GPU{'s' * (self.num > 1)}"
        return f"{self.place} has no GPU{' now; with --device cuda the run waits for one' * self.may_grow}"


def _gpus_there() -> _Gpus:
    if running_ray() is not None:
        return _gpus_of_ray()
    if not os.environ.get("RAY_ADDRESS"):
        return _Gpus(num_gpus(), "this machine")
    with tempfile.TemporaryDirectory() as folder, ray_session(Path(folder) / "ray.log"):
        return _gpus_of_ray()


def _gpus_of_ray() -> _Gpus:
    size = size_of_cluster()
    if size.num_nodes == 1 and not os.environ.get("RAY_ADDRESS"):
        return _Gpus(size.gpus, "this machine")
    return _Gpus(size.gpus, "the cluster", grows_by_itself())


def _is_gpu(device: str) -> bool:
    return device.startswith("cuda")
