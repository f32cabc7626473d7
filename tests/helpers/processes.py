"""Processes of tests' own: the kernel ends each with the process that started it, however that ends.

They can be interrupted though the tests run in the background, where shells have Ctrl-C ignored by all who inherit it,
and under nohup, which does the same with SIGHUP.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

ENDS_WITH_PARENT = (
    sys.executable,
    "-c",
    "import ctypes, os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "signal.signal(signal.SIGHUP, signal.SIG_DFL); ctypes.CDLL(None).prctl(1, 9); "
    "os.execv(sys.argv[1], sys.argv[1:])",
)


def start(*words: object, **options: Any) -> subprocess.Popen[str]:
    """Its output can be read; it is head of a process group, as under a shell. The first word is an absolute path."""
    return subprocess.Popen(
        [*ENDS_WITH_PARENT, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )
