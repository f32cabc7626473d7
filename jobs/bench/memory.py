"""The memory of a process and of all that it started, over time, as Linux counts it, and a plot of that.

What counts is a process's resident memory without the shared part: all of Ray's processes map its object store, whose
size is fixed.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

INTERVAL_S = 1.0
MB = 2**20
WIDTH, HEIGHT, LEFT, TOP, BOTTOM, RIGHT = 420, 240, 52, 30, 40, 16
COLOURS = {"driver": "#1e6fb3", "worker": "#b3541e", "ray": "#8a8a8a"}
LABELS = {"driver": "driver", "worker": "largest worker", "ray": "largest of Ray's servers"}


@dataclass(frozen=True, slots=True)
class MemorySample:
    """Of one moment, in bytes."""

    at: float  # time.monotonic's seconds
    driver: int
    worker: int  # the largest of the processes that Ray runs tasks and actors in, and of those that they started
    ray: int  # the largest of Ray's own servers


class MemoryWatch:
    """Samples a process and its descendants as the block begins, once a second from a thread, and as it ends."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample_on, name="memory", daemon=True)
        self.samples: list[MemorySample] = []

    def __enter__(self) -> MemoryWatch:
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._sample()

    def _sample_on(self) -> None:
        while not self._over.wait(INTERVAL_S):
            self._sample()

    def _sample(self) -> None:
        """Nothing is added when the process is gone."""
        if (driver := resident_bytes(self._pid)) is None:
            return
        largest = {"worker": 0, "ray": 0}
        for pid, is_server in _descendants(self._pid):
            kind = "ray" if is_server else "worker"
            largest[kind] = max(largest[kind], resident_bytes(pid) or 0)
        self.samples.append(MemorySample(time.monotonic(), driver, **largest))


def growth(samples: list[MemorySample], first_at: float, last_at: float, share: float) -> dict[str, float]:
    """In MB: peaks, and what was added from when `share` of the time was over to the end."""
    figures: dict[str, float] = {}
    early, late = (_last_before(samples, first_at + part * (last_at - first_at)) for part in (share, 1.0))
    for name in COLOURS:
        figures[f"{name}_peak_mb"] = max((getattr(one, name) for one in samples), default=0) / MB
        figures[f"{name}_growth_mb"] = (getattr(late, name) - getattr(early, name)) / MB
    return figures


def _last_before(samples: list[MemorySample], at: float) -> MemorySample:
    """Not the nearest, since right after the last commit the workers are gone."""
    return max((one for one in samples if one.at <= at), key=lambda one: one.at, default=MemorySample(at, 0, 0, 0))


def resident_bytes(pid: int) -> int | None:
    """Without shared memory; None when the process is gone."""
    status = _status(pid)
    return (status["RssAnon"] + status["RssFile"]) * 1024 if "RssAnon" in status else None


def peak_bytes() -> int:
    """The most that this process has held, shared memory included. (getrusage would tell the parent's, too.)"""
    return _status("self")["VmHWM"] * 1024


def _status(pid: int | str) -> dict[str, int]:
    """The figures of /proc/PID/status that are in kB; none when the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if "kB" in rest}


def _descendants(pid: int) -> list[tuple[int, bool]]:
    """Each with whether it is one of Ray's servers: a worker calls itself `ray::…`, and what it starts is its own."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            parent = int((folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(parent, []).append(int(folder.name))
    found: list[tuple[int, bool]] = []
    waiting = [(child, True) for child in children.get(pid, [])]
    while waiting:
        one, below_server = waiting.pop()
        is_server = below_server and not _title(one).startswith("ray::")
        found.append((one, is_server))
        waiting += [(child, is_server) for child in children.get(one, [])]
    return found


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def draw(runs: dict[str, list[MemorySample]]) -> str:
    """An SVG with a panel for each run: its title and its samples."""
    panels = [_panel(title, samples, i * WIDTH) for i, (title, samples) in enumerate(runs.items())]
    width = len(runs) * WIDTH
    size = f'width="{width}" height="{HEIGHT}" viewBox="0 0 {width} {HEIGHT}"'
    style = 'font-family="sans-serif" font-size="11" fill="#333"'
    background = '<rect width="100%" height="100%" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{background}{"".join(panels)}</svg>\n'


def _panel(title: str, samples: list[MemorySample], offset: int) -> str:
    first, last = samples[0].at, samples[-1].at
    step = 100
    top = max(max(one.driver, one.worker, one.ray) for one in samples) / MB
    while top > 6 * step:
        step *= 2

    def x(at: float) -> float:
        return offset + LEFT + (WIDTH - LEFT - RIGHT) * (at - first) / ((last - first) or 1)

    def y(megabytes: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * megabytes / (top * 1.1)

    parts = [f'<text x="{offset + LEFT}" y="18" font-weight="bold">{title}</text>']
    for level in range(0, int(top * 1.1) + 1, step):
        parts.append(f'<path d="M{offset + LEFT} {y(level):.1f}H{offset + WIDTH - RIGHT}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{offset + LEFT - 6}" y="{y(level) + 4:.1f}" text-anchor="end">{level} MB</text>')
    for part in range(5):
        at = first + (last - first) * part / 4
        parts.append(f'<text x="{x(at):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{at - first:.0f} s</text>')
    there = [name for name in COLOURS if any(getattr(one, name) for one in samples)]
    for column, (name, colour) in enumerate((name, COLOURS[name]) for name in there):
        line = " ".join(f"{x(one.at):.1f},{y(getattr(one, name) / MB):.1f}" for one in samples)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        place = f'x="{offset + LEFT + 110 * column}" y="{HEIGHT - 6}"'
        parts.append(f'<text {place} fill="{colour}">{LABELS[name]}</text>')
    return "".join(parts)
