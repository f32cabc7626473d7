"""`vigc doctor`: what this machine has, what is missing, and how to get it.

Each check gives one line: what it is, what was found, and, where that is a problem, the way out.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from pathlib import Path

from vigc.jobs.machine import PACKAGES, installed, memory_bytes, versions
from vigc.model.cores import num_cores
from vigc.model.weights.identity import identify
from vigc.platform.pipeline.hardware import num_gpus
from vigc.platform.pipeline.ray_session import OBJECT_STORE_BYTES
from vigc.platform.records import VigcError

GIB = 2**30
MIN_DISK_BYTES = 2 * GIB
MIN_MEMORY_BYTES = 4 * GIB
INSTALL = "Install it again: `make setup`, or `pip install -e .` in the repository."


class CheckState(StrEnum):
    OK = "ok"
    NOTE = "note"  # works, but worth knowing
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class MachineCheck:
    name: str
    state: CheckState
    found: str
    remedy: str = ""


def diagnose(*, with_ray: bool = False) -> Iterator[MachineCheck]:
    """The checks one after another, as they finish.

    Args:
        with_ray: also start a Ray of our own, which takes some seconds, and run one task on it.
    """
    yield _python()
    found = versions()
    yield MachineCheck("vigc", CheckState.OK, str(found["vigc"]))
    for name in PACKAGES:
        yield (
            MachineCheck(name, CheckState.OK, str(found[name]))
            if found[name]
            else MachineCheck(name, CheckState.MISSING, "not installed", INSTALL)
        )
    yield MachineCheck("cores", CheckState.OK, str(num_cores()))
    yield _memory()
    yield _disk(Path.cwd())
    yield _shared_memory()
    yield _devices()
    yield _embedded_model()
    if with_ray:
        yield _ray()


def _python() -> MachineCheck:
    return MachineCheck("python", CheckState.OK, f"{'.'.join(map(str, sys.version_info[:3]))}, {sys.executable}")


def _memory() -> MachineCheck:
    total = memory_bytes()
    if total is None:
        return MachineCheck("memory", CheckState.NOTE, "unknown")
    few = total < MIN_MEMORY_BYTES
    return MachineCheck(
        "memory",
        CheckState.NOTE if few else CheckState.OK,
        f"{total / GIB:.1f} GiB",
        "4 GiB or more are comfortable." if few else "",
    )


def _disk(folder: Path) -> MachineCheck:
    free = shutil.disk_usage(folder).free
    few = free < MIN_DISK_BYTES
    return MachineCheck(
        "disk",
        CheckState.NOTE if few else CheckState.OK,
        f"{free / GIB:.1f} GiB free at {folder}",
        "Free some space before a large run." if few else "",
    )


def _shared_memory() -> MachineCheck:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return MachineCheck(
            "/dev/shm", CheckState.NOTE, "not there", "Ray then keeps its objects on disk, which is slower."
        )
    total = shutil.disk_usage(folder).total
    few = total < OBJECT_STORE_BYTES
    remedy = (
        "Ray then keeps its objects on disk, which is slower. In a container: docker run --shm-size=1g." if few else ""
    )
    return MachineCheck("/dev/shm", CheckState.NOTE if few else CheckState.OK, f"{total / GIB:.2f} GiB", remedy)


def _devices() -> MachineCheck:
    if installed("torch") is None:
        return MachineCheck("device", CheckState.MISSING, "torch is not installed", INSTALL)
    torch = import_module("torch")
    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return MachineCheck(
            "device", CheckState.OK, "; ".join(f"{gpu.name}, {gpu.total_memory / GIB:.0f} GiB" for gpu in gpus)
        )
    if num_gpus():
        return MachineCheck(
            "device",
            CheckState.NOTE,
            f"cpu; torch {torch.__version__} cannot use the GPU",
            "Install a torch built for CUDA, and its driver.",
        )
    return MachineCheck("device", CheckState.OK, "cpu (no NVIDIA GPU)")


def _embedded_model() -> MachineCheck:
    try:
        model = identify(None)
    except VigcError as error:
        return MachineCheck("embedded model", CheckState.MISSING, str(error), INSTALL)
    size = sum(file[1] for file in model.files)
    return MachineCheck("embedded model", CheckState.OK, f"{size / 2**20:.1f} MiB, sha256 {model.weights}")


def _ray() -> MachineCheck:
    if installed("ray") is None:
        return MachineCheck("ray starts", CheckState.MISSING, "ray is not installed", INSTALL)
    from vigc.platform.pipeline.ray_session import ray_session

    ray = import_module("ray")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            with ray_session(Path(folder) / "ray.log"):
                ray.get(ray.remote(_say_pid).remote(), timeout=60)
        except (VigcError, ray.exceptions.RayError) as error:
            remedy = "Ray needs free ports on this machine, and room in its temporary folder (RAY_TMPDIR)."
            return MachineCheck("ray starts", CheckState.MISSING, str(error), remedy)
    where = os.environ.get("RAY_ADDRESS")
    return MachineCheck(
        "ray starts", CheckState.OK, f"{'at ' + where if where else 'here'}, in {time.monotonic() - started:.1f} s"
    )


def _say_pid() -> int:
    return os.getpid()
