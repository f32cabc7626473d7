"""The Ray a job runs on: the one that is already there, or a small one of its own on this machine.

A Ray of our own opens no dashboard, sends no telemetry and writes no token into the home folder. What it and its
workers print goes to its session's log folder, not to the terminal.
"""

from __future__ import annotations

import logging
import math
import os
import re
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tenacity import Retrying, retry_if_exception_message, stop_after_attempt

from vigc.platform.records import ConfigError, RunError

# Read by Ray when it is imported or started, so they are set before; a user's own setting wins.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_enable_output_error_log_if_still_retry": "0",
    # For how long a driver looks for its node, and the node for its helper processes; Ray's 10 s and 30 s are little
    # where cores are busy.
    "RAY_raylet_start_wait_time_s": "60",
    "RAY_agent_register_timeout_ms": "180000",
}
# Logical CPUs. Reading, decoding, writing and a resume's checkpoint filter need some besides the actors, or all hangs.
MIN_CPUS = 4
CPUS_BESIDE_ACTORS = 3
CPUS_PER_ACTOR = 0.5
NUM_TRIES, TRY_S = 5, 5.0  # of a connection to a cluster that is there
NUM_STARTS = 4  # each may take half a minute
OBJECT_STORE_BYTES = 512 * 2**20  # pixels at model size are small: 150 kB at 224 x 224


@contextmanager
def ray_session(log: Path, cpus: float = 0, gpus: float = 0) -> Iterator[Path]:
    """Ray for the length of the block: this process's, or RAY_ADDRESS's, or a local one that ends with the block.

    Args:
        log: a file for what Ray has to say in this process.
        cpus: that processes will hold for the whole time, as Ray counts them; a local Ray is made large enough.
        gpus: that they will hold.
    Yields:
        The folder where the session's own logs are.
    Raises:
        RunError: no Ray could be started or joined.
        ConfigError: this machine has too few GPUs.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray  # here, after the environment is set; and it takes 1.5 s, which a finished run need not spend
    import ray.data  # its log handler keeps the stderr it finds on import: file descriptor 2, led into `log` below

    starts = not ray.is_initialized()
    with _terminal_silent(), _stderr_into(log):
        if starts:
            _start(cpus)
        try:
            if starts and not os.environ.get("RAY_ADDRESS"):
                _check_gpus(gpus)
            node: Any = ray._private.worker._global_node
            yield Path(node.get_logs_dir_path())
        finally:
            if starts:
                ray.shutdown()


def running_ray() -> Any:
    """The module, where it is imported already and joined to a cluster; else None."""
    ray = sys.modules.get("ray")
    return ray if ray is not None and hasattr(ray, "is_initialized") and ray.is_initialized() else None


def _start(cpus: float) -> None:
    local: dict[str, Any] = {
        "address": "local",
        "num_cpus": max(MIN_CPUS, os.cpu_count() or 1, math.ceil(cpus) + CPUS_BESIDE_ACTORS),
        "object_store_memory": OBJECT_STORE_BYTES,
        "include_dashboard": False,
        "_node_ip_address": "127.0.0.1",  # nobody else's business, and no network is needed
    }
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _require_listener(address)
    try:
        init_ray(**({} if address else local), log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        place = f"at RAY_ADDRESS={address} could not be reached" if address else "could not be started on this machine"
        raise RunError(f"Ray {place}: {error}. `vigc doctor` checks what it needs.") from error


def _require_listener(address: str) -> None:
    """Raises RunError where nobody listens: Ray itself would go on trying for a quarter of an hour."""
    found = re.fullmatch(r"(?:ray://)?([\w.-]+):(\d+)", address)
    if found is None:  # "auto" and the like
        return
    for attempt in range(NUM_TRIES):
        try:
            socket.create_connection((found[1], int(found[2])), TRY_S).close()
            return
        except OSError as error:
            if attempt == NUM_TRIES - 1:
                raise RunError(
                    f"Ray at RAY_ADDRESS={address} could not be reached: nobody listens there ({error}). Is the "
                    "cluster up, and the address right? Without RAY_ADDRESS a run has a Ray of its own."
                ) from error
            time.sleep(1)


def init_ray(**options: Any) -> None:
    """`ray.init`, again where its processes did not come up in time, as on a busy machine."""
    import ray

    is_late = retry_if_exception_message(match=r"(?s).*timed out during startup")
    for attempt in Retrying(
        retry=is_late, stop=stop_after_attempt(NUM_STARTS), before_sleep=lambda state: ray.shutdown(), reraise=True
    ):
        with attempt, _own_signals():
            ray.init(**options)


@contextmanager
def _own_signals() -> Iterator[None]:
    """The process keeps its handler of SIGTERM, which Ray replaces. Ray's processes start with SIGHUP ignored.

    They share the terminal, and would otherwise be gone before this process has ended its work.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    terminate, hang_up = signal.getsignal(signal.SIGTERM), signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, hang_up)
        if callable(terminate):
            signal.signal(signal.SIGTERM, terminate)


def _check_gpus(gpus: float) -> None:
    """Refuses a run that holds more GPUs than there are: Ray would wait for them for ever."""
    import ray

    there: float = ray.cluster_resources().get("GPU", 0)  # type: ignore[no-untyped-call]
    if gpus > there:
        raise ConfigError(
            f"This run holds {gpus:g} GPUs at once, and Ray finds {there:g} on this machine. "
            "Have fewer processes, a smaller share of a GPU for each, or --device cpu."
        )


@contextmanager
def _terminal_silent() -> Iterator[None]:
    """No message of the workers' on stdout and no warning from within Ray; the session's log files keep the former."""
    import ray._private.worker as driver

    driver._worker_logs_enabled, enabled = False, driver._worker_logs_enabled
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"ray\.")
            yield
    finally:
        driver._worker_logs_enabled = enabled


@contextmanager
def _stderr_into(log: Path) -> Iterator[None]:
    """Ray's C++ part and Ray Data's logger insist on file descriptor 2; Python's `sys.stderr` stays what it was."""
    log.parent.mkdir(parents=True, exist_ok=True)
    visible = sys.stderr
    terminal = os.dup(2)
    with open(log, "ab") as file, open(os.dup(terminal), "w", buffering=1, errors="backslashreplace") as to_terminal:
        try:
            if visible is sys.__stderr__:
                sys.stderr = to_terminal
            os.dup2(file.fileno(), 2)
            yield
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            sys.stderr = visible
