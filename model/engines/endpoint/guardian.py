"""Keeps a server's processes from outliving whoever started them, however that ends.

Run as a script: `python guardian.py COMMAND …`. The starter holds the other end of its standard input and says nothing
there; when that end closes, by a clean stop or by the starter's death, the server's whole process group is ended. When
the server ends by itself, this ends with its exit code. Standard library only.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress

GRACE_S = 10.0  # from SIGTERM to SIGKILL
CHECK_S = 0.5


def main(command: list[str]) -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C is the starter's to answer, and its end is seen on the pipe
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_default_signals)  # noqa: PLW1509
    while server.poll() is None:
        readable, _, _ = select.select([0], [], [], CHECK_S)
        if readable and not os.read(0, 1):
            break
    _end_group(server)
    return server.wait()


def _default_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _end_group(server: subprocess.Popen[bytes]) -> None:
    """Also where the server itself is gone: what it started may not be."""
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        server.wait(GRACE_S)
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
