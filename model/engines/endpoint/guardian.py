"""Keeps a server's processes from outliving whoever started them, however that ends.

Run as a script, as head of a process group: `python guardian.py COMMAND …`. The starter holds the other end of its
standard input and says nothing there; when that end closes, by a clean stop or by the starter's death, or when the
server ends by itself, the whole group is ended, which is all that the server started. Should this process be killed,
the kernel ends the server, and the starter ends the rest of the group. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress

GRACE_S = 10.0  # from SIGTERM to SIGKILL
CHECK_S = 0.5
_PR_SET_PDEATHSIG = 1


def main(command: list[str]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C is the starter's to answer, and its end is seen on the pipe
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_in_the_server)  # noqa: PLW1509
    while server.poll() is None:
        readable, _, _ = select.select([0], [], [], CHECK_S)
        if readable and not os.read(0, 1):
            break
    _end_group(server)


def _in_the_server() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _end_group(server: subprocess.Popen[bytes]) -> None:
    """Also where the server itself is gone: what it started may not be. This process is the last of the group."""
    os.killpg(0, signal.SIGTERM)  # which is ignored here
    with suppress(subprocess.TimeoutExpired):
        server.wait(GRACE_S)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
