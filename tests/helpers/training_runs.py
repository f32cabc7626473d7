"""Training runs of the command line, and the killing of their workers."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from waiting import wait_until

from vigc.model.embedded import PATH
from vigc.model.scenes import Split, make_scene, write_scenes
from vigc.model.scenes.wording import describe

SMALL = (
    "batch_size=8",
    "micro_batch_size=2",
    "precision=fp32",
    "saved_as=float32",
    "optimizer.peak=1e-3",
    "optimizer.num_warmup=2",
)


def make_data(folder: Path) -> Path:
    """40 scenes told in LLaVA's form; two of the pictures cannot be read."""
    write_scenes(folder, num=40, seed=4, size=160, split=Split.TRAIN)
    records = []
    for index in range(40):
        told = describe(make_scene(Split.TRAIN, 4, index), random.Random(index))
        name = f"{index:06d}.{'png' if index % 5 == 4 else 'jpg'}"
        turns = [{"from": "human", "value": f"<image>\n{told.question}"}, {"from": "gpt", "value": told.answer}]
        records.append({"id": str(index), "image": name, "conversations": turns})
    (folder / "images" / "000003.jpg").write_bytes(b"no picture")
    (folder / "images" / "000007.jpg").unlink()
    file = folder / "images" / "detail.json"
    file.write_text(json.dumps(records))
    return file


def command(data: Path, out: Path, *options: str, workers: int | str = 2, model: Path = PATH) -> list[str]:
    sets = [word for option in (*SMALL, *options) for word in ("--set", option)]
    where = ["--data", str(data), "--out", str(out), "--model", str(model), "--workers", str(workers)]
    return [sys.executable, "-m", "vigc.jobs.cli", "train", "--recipe", "paper_7b", *where, *sets]


def losses(out: Path) -> dict[int, float]:
    """By update; where an update was done twice, the later one."""
    lines = (out / "metrics.jsonl").read_text().split("\n")[:-1]  # the last may be half written
    return {line["update"]: line["loss"] for line in map(json.loads, lines)}


def kill_a_worker(driver: subprocess.Popen[str], out: Path, after_update: int) -> int:
    """SIGKILL to one training worker once that update is done; returns its process id."""
    wait_for_update(driver, out, after_update)
    workers = [pid for pid in _descendants(driver.pid) if "RayTrainWorker" in _name(pid)]
    assert workers, [_name(pid) for pid in _descendants(driver.pid)]
    os.kill(workers[-1], signal.SIGKILL)
    return workers[-1]


def kill_with_workers(driver: subprocess.Popen[str]) -> None:
    """SIGKILL to a run and all its processes at once; its workers alone would go on for a while, perhaps to the end."""
    for pid in (driver.pid, *_descendants(driver.pid)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    driver.communicate()


def wait_for_update(driver: subprocess.Popen[str], out: Path, update: int) -> None:
    file = out / "metrics.jsonl"
    wait_until(lambda: file.exists() and max(losses(out), default=0) >= update, process=driver, pause_s=0.1)


def _descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""
