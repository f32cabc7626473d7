"""Machines of a small network, as network namespaces of this one: each with an address, a cable, and its processes.

The test itself is outside, at `outside`, and reaches all of them. Needs root and `ip`.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path


def why_not() -> str | None:
    """Why there can be none here."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need the command ip"
    name = f"vigc-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"no network namespace can be made here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return None


class Hosts:
    """As many hosts as asked for, numbered from 0; gone, with all their processes, after `close`."""

    def __init__(self, num: int) -> None:
        self._tag = f"vg{os.getpid() % 10_000}"
        self._bridge = f"{self._tag}b"
        self._num = 0
        net = _free_network()
        self.outside, *self.addresses = [str(net[number]) for number in range(1, num + 2)]
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("addr", "add", f"{self.outside}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        for number in range(num):
            self._num = number + 1
            name, cable, plug = self._name(number), self._cable(number), f"{self._tag}p{number}"
            _ip("netns", "add", name)
            _ip("link", "add", cable, "type", "veth", "peer", "name", plug)
            _ip("link", "set", plug, "netns", name)
            _ip("link", "set", cable, "master", self._bridge, "up")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "addr", "add", f"{self.addresses[number]}/24", "dev", plug)
            _ip("-n", name, "link", "set", plug, "up")

    def start(self, number: int, command: list[str], env: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
        with open(log, "ab") as file:
            return subprocess.Popen(
                ["ip", "netns", "exec", self._name(number), *command],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def cut(self, number: int) -> None:
        """Pulls the cable; processes go on, and nobody hears of them."""
        _ip("link", "set", self._cable(number), "down")

    def mend(self, number: int) -> None:
        _ip("link", "set", self._cable(number), "up")

    def pids(self, number: int) -> list[int]:
        return [int(pid) for pid in _ip("netns", "pids", self._name(number)).split()]

    def kill(self, number: int) -> None:
        """All of its processes at once, as when the power fails."""
        for _ in range(3):  # those that one of them was just starting, too
            for pid in self.pids(number):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        for number in range(self._num):
            with suppress(subprocess.CalledProcessError):
                self.kill(number)
                _ip("netns", "del", self._name(number))
        with suppress(subprocess.CalledProcessError):
            _ip("link", "del", self._bridge)

    def _name(self, number: int) -> str:
        return f"{self._tag}h{number}"

    def _cable(self, number: int) -> str:
        return f"{self._tag}c{number}"


def _free_network() -> ipaddress.IPv4Network:
    """A private /24 that this machine has no address in."""
    used = [
        ipaddress.ip_interface(f"{address['local']}/{address['prefixlen']}").network
        for link in json.loads(_ip("-4", "-json", "addr"))
        for address in link["addr_info"]
    ]
    for number in range(os.getpid() % 200, 255):
        net = ipaddress.IPv4Network(f"10.213.{number}.0/24")
        if not any(net.overlaps(other) for other in used if isinstance(other, ipaddress.IPv4Network)):
            return net
    raise RuntimeError("no private network is free here")


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout
