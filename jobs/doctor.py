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

from vigc.jobs.machine import PACKAGES, installed, memory_bytes, num_gpus, versions
from vigc.model.cores import num_cores
from vigc.model.weights.identity import identify
from vigc.platform.pipeline.ray_session import OBJECT_STORE_BYTES
from vigc.platform.records import VigcError

GIB = 2**30
MIN_DISK_BYTES = 2 * GIB
MIN_MEMORY_BYTES = 4 * GIB
INSTALL = "Install it again: `make setup`, or `pip install -e .` in the repository."


class State(StrEnum):
    OK = "ok"
    NOTE = "note"  # works, but worth knowing
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    state: State
    found: str
    remedy: str = ""


def diagnose(*, with_ray: bool = False) -> Iterator[Check]:
    """The checks one after another, as they finish.

    Args:
        with_ray: also start a Ray of our own, which takes some seconds, and run one task on it.
    """
    yield _python()
    found = versions()
    yield Check("vigc", State.OK, str(found["vigc"]))
    for name in PACKAGES:
        yield (
            Check(name, State.OK, str(found[name]))
            if found[name]
            else Check(name, State.MISSING, "not installed", INSTALL)
        )
    yield Check("cores", State.OK, str(num_cores()))
    yield _memory()
    yield _disk(Path.cwd())
    yield _shared_memory()
    yield _devices()
    yield _embedded_model()
    if with_ray:
        yield _ray()


def _python() -> Check:
    return Check("python", State.OK, f"{'.'.join(map(str, sys.version_info[:3]))}, {sys.executable}")


def _memory() -> Check:
    total = memory_bytes()
    if total is None:
        return Check("memory", State.NOTE, "unknown")
    few = total < MIN_MEMORY_BYTES
    return Check(
        "memory",
        State.NOTE if few else State.OK,
        f"{total / GIB:.1f} GiB",
        "4 GiB or more are comfortable." if few else "",
    )


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    few = free < MIN_DISK_BYTES
    return Check(
        "disk",
        State.NOTE if few else State.OK,
        f"{free / GIB:.1f} GiB free at {folder}",
        "Free some space before a large run." if few else "",
    )


def _shared_memory() -> Check:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Check("/dev/shm", State.NOTE, "not there", "Ray then keeps its objects on disk, which is slower.")
    total = shutil.disk_usage(folder).total
    few = total < OBJECT_STORE_BYTES
    remedy = (
        "Ray then keeps its objects on disk, which is slower. In a container: docker run --shm-size=1g." if few else ""
    )
    return Check("/dev/shm", State.NOTE if few else State.OK, f"{total / GIB:.2f} GiB", remedy)


def _devices() -> Check:
    if installed("torch") is None:
        return Check("device", State.MISSING, "torch is not installed", INSTALL)
    torch = import_module("torch")
    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return Check("device", State.OK, "; ".join(f"{gpu.name}, {gpu.total_memory / GIB:.0f} GiB" for gpu in gpus))
    if num_gpus():
        return Check(
            "device",
            State.NOTE,
            f"cpu; torch {torch.__version__} cannot use the GPU",
            "Install a torch built for CUDA, and its driver.",
        )
    return Check("device", State.OK, "cpu (no NVIDIA GPU)")


def _embedded_model() -> Check:
    try:
        model = identify(None)
    except VigcError as error:
        return Check("embedded model", State.MISSING, str(error), INSTALL)
    size = sum(file[1] for file in model.files)
    return Check("embedded model", State.OK, f"{size / 2**20:.1f} MiB, sha256 {model.weights}")


def _ray() -> Check:
    if installed("ray") is None:
        return Check("ray starts", State.MISSING, "ray is not installed", INSTALL)
    from vigc.platform.pipeline.ray_session import ray_session

    ray = import_module("ray")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            with ray_session(Path(folder) / "ray.log"):
                ray.get(ray.remote(_say_pid).remote(), timeout=60)
        except (VigcError, ray.exceptions.RayError) as error:
            remedy = "Ray needs free ports on this machine, and room in its temporary folder (RAY_TMPDIR)."
            return Check("ray starts", State.MISSING, str(error), remedy)
    where = os.environ.get("RAY_ADDRESS")
    return Check("ray starts", State.OK, f"{'at ' + where if where else 'here'}, in {time.monotonic() - started:.1f} s")


def _say_pid() -> int:
    return os.getpid()
