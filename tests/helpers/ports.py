"""Ports on loopback that are this process's alone: a server can be told one before it listens, and again after a kill.

Meanwhile nobody answers there.
"""

from __future__ import annotations

import random
import socket

HOST = "127.0.0.1"
BLOCK = 100
_claims: list[socket.socket] = []  # each holds the first port of a block for as long as this process lives
_ports: list[int] = []


def free_ports(count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        if not _ports:
            _claim()
        port = _ports.pop()
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((HOST, port))
            except OSError:
                continue
        found.append(port)
    return found


def free_port() -> int:
    return free_ports(1)[0]


def _claim() -> None:
    """Below 32768, from where on the kernel gives ports to outgoing connections."""
    firsts = range(20_000, 32_000, BLOCK)
    for first in random.SystemRandom().sample(firsts, len(firsts)):
        claim = socket.socket()
        try:
            claim.bind((HOST, first))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        _ports.extend(range(first + 1, first + BLOCK))
        return
    raise RuntimeError("all blocks of ports are taken")
