"""What this machine has, learned without torch or Ray: memory, versions."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import vigc

COMMIT_VARIABLE = "VIGC_GIT_COMMIT"  # what a job on a cluster was sent with
PACKAGES = ("torch", "transformers", "ray", "pyarrow", "numpy", "pillow", "simplejpeg", "safetensors")


def memory_bytes() -> int | None:
    """RAM of this machine, or of the container if that is less."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = Path(name)
        if limit.is_file() and (text := limit.read_text().strip()).isdecimal():
            return min(physical, int(text))
    return physical


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str | None]:
    python = ".".join(map(str, sys.version_info[:3]))
    return {"vigc": vigc.__version__, "python": python, **{name: installed(name) for name in PACKAGES}}


def git_commit() -> str | None:
    """The commit this code was checked out at; None for an installed package that was not told."""
    root = Path(vigc.__file__).resolve().parents[1]
    if not (root / ".git").exists() or not (git := shutil.which("git")):
        return os.environ.get(COMMIT_VARIABLE)
    found = subprocess.run(
        [git, "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=10, check=False
    )
    return found.stdout.strip() or None
