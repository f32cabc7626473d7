"""`vigc bench pipeline`: the embedded model through the whole pipeline, beside the bare engine on the same images.

Bare means the pipeline's worker in one child process, handed the same blocks all at once, decoded beforehand: no Ray,
no storage, no commit, and decoding is not counted. The pipeline decodes, commits and merges beside its engine, on the
same cores. Both are timed by the worker's own clock, from the first block that it gets to the last row that it gives,
which leaves out every start-up. Rounds alternate, so what else the machine does falls on both.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from vigc.jobs.bench.common import write_figures
from vigc.jobs.generate.config import GenerateConfig
from vigc.jobs.generate.plan import Plan, make_plan
from vigc.jobs.generate.run import run_pipeline
from vigc.jobs.generate.worker import Worker, WorkerSettings
from vigc.jobs.scenes import make_scenes
from vigc.jobs.terminal import make_console
from vigc.platform.dataset.layout import Block
from vigc.platform.dataset.passes import Pass, read_block
from vigc.platform.images.decode import MAX_PIXELS, decode_batch
from vigc.platform.images.isolation import Child
from vigc.platform.pipeline.block_batch import to_bytes
from vigc.platform.pipeline.generate_stage import WorkerHost
from vigc.platform.records import RunError

if TYPE_CHECKING:
    import pyarrow as pa

SEED = 3  # of the scenes


@dataclass(frozen=True, slots=True)
class Clocked:
    """What a worker noted of its work."""

    rows: int
    seconds: float  # from the first block to the last row
    occupancy: float | None  # mean share of occupied slots in the decode steps of an engine of our own

    @property
    def images_per_s(self) -> float:
        return self.rows / self.seconds


class ClockedWorker(Worker):
    """The worker, noting in a file on how many images it has been at work for how long."""

    def __init__(self, settings: WorkerSettings, notes: str) -> None:
        super().__init__(settings)
        self._notes = Path(notes)
        self._first_at: float | None = None
        self._rows = 0

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        from vigc.model.engines.continuous.engine import ContinuousEngine

        self._first_at = self._first_at or time.monotonic()
        async for rows in super().__call__(batch):
            self._rows += rows.num_rows
            occupancy = self._engine.occupancy if isinstance(self._engine, ContinuousEngine) else None
            noted = [self._rows, time.monotonic() - self._first_at, occupancy]
            self._notes.write_text(json.dumps(noted), encoding="utf-8")
            yield rows


def pipeline_beside_engine(
    *, num: int, rounds: int, slots: int | None, threads: int | None, json_file: Path | None
) -> None:
    """Alternates `rounds` runs of each over `num` rendered scenes, with the settings that `vigc generate` would choose.

    Args:
        slots, threads: of the engine, on both sides; None: as `vigc generate`.
    """
    made: dict[str, list[Clocked]] = {"bare": [], "pipeline": []}
    with tempfile.TemporaryDirectory(prefix="vigc-bench-") as folder:
        scenes = Path(folder) / "scenes"
        make_scenes(scenes, num=num, seed=SEED)
        for number in range(rounds):
            for name, side in (("bare", _bare), ("pipeline", _pipeline)):
                out = Path(folder) / f"{name}-{number}"
                plan = make_plan(GenerateConfig(images=str(scenes), out=str(out), device="cpu", slots=slots))
                if threads is not None:
                    plan = replace(plan, engine=replace(plan.engine, num_threads=threads))
                assert plan.source is not None
                pass_ = plan.store.create_pass(plan.request, plan.source)
                notes = Path(folder) / f"{name}-{number}.json"
                side(plan, pass_, notes)
                made[name].append(read_notes(notes, num))
    _report(made, plan, pass_, json_file)


def _pipeline(plan: Plan, pass_: Pass, notes: Path) -> None:
    run_pipeline(plan, pass_, None, ClockedWorker, str(notes))


def _bare(plan: Plan, pass_: Pass, notes: Path) -> None:
    blocks = (Block(0, number) for number in range(pass_.layout.num_blocks(0)))
    records = (read_block(pass_.folder, pass_.layout, block) for block in blocks)
    images = [to_bytes(decode_batch(some, plan.model.image_size, MAX_PIXELS)) for some in records]
    settings = WorkerSettings(plan.engine, plan.conversations, pass_.number)
    child = Child(WorkerHost, (ClockedWorker, (settings, str(notes))))
    try:
        for call in child.submit(*images):
            call.result()
    finally:
        child.stop()


def read_notes(notes: Path, num: int) -> Clocked:
    rows, seconds, occupancy = json.loads(notes.read_text(encoding="utf-8"))
    if rows != num:
        raise RunError(f"The worker made {rows} rows of {num} images in one life: it must have died. Run it again.")
    return Clocked(rows, seconds, occupancy)


def _report(made: dict[str, list[Clocked]], plan: Plan, pass_: Pass, json_file: Path | None) -> None:
    ratios = [b.images_per_s / a.images_per_s for a, b in zip(made["bare"], made["pipeline"], strict=True)]
    figures: dict[str, float] = {"ratio": statistics.median(ratios), "ratio_lowest": min(ratios)}
    table = Table("", "images/s", "occupied slots", "engine threads", "decoding", box=None, pad_edge=False)
    for name, label, decoding in (
        ("bare", "bare engine", "not counted"),
        ("pipeline", "pipeline", "counted"),
    ):
        rate = statistics.median(one.images_per_s for one in made[name])
        occupancy = statistics.mean(one.occupancy or 0.0 for one in made[name])
        figures |= {
            f"images_per_s_{name}": rate,
            f"occupancy_{name}": occupancy,
            f"threads_{name}": plan.engine.num_threads or 0,
        }
        table.add_row(label, f"{rate:.2f}", f"{occupancy:.1%}", str(plan.engine.num_threads), decoding)
    console = make_console()
    console.print(table)
    console.print(
        f"pipeline / bare engine: {figures['ratio']:.3f}, the median of {len(ratios)} rounds "
        f"({', '.join(f'{ratio:.3f}' for ratio in ratios)}); start-up excluded on both sides"
    )
    write_figures(
        json_file,
        figures
        | {
            "num_images": made["bare"][0].rows,
            "rounds": len(ratios),
            "slots": plan.engine.most_slots,
            "rows_per_block": pass_.layout.rows_per_block,
        },
    )
