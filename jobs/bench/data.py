"""`vigc bench data`: the whole data plane with a model that answers at once, at sizes where growth would show.

Everything is as in `vigc generate` but for the worker: manifest, blocks, decode, an actor with the worker in a process
of its own, commit, merge. All rows name one of a few small JPEG files, which are fetched and decoded anew for each row.
Each run, each resume and each verification has a driver process of its own, so no figure carries another's memory.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import tempfile
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from vigc.jobs.bench.common import write_figures
from vigc.jobs.bench.memory import MB, MemorySample, MemoryWatch, draw, growth, peak_bytes
from vigc.jobs.terminal import make_console
from vigc.platform.dataset.layout import Block
from vigc.platform.dataset.ledger import commit, marker_of
from vigc.platform.dataset.merging import Merger
from vigc.platform.dataset.passes import Pass, read_block
from vigc.platform.dataset.store import Store
from vigc.platform.dataset.verify import verify
from vigc.platform.images.isolation import Child
from vigc.platform.pipeline import run as pipeline
from vigc.platform.pipeline.progress import Progress
from vigc.platform.records import Conversation, CorrectionStep, Kind, RowStatus, RunError, Sentence, Stop
from vigc.platform.schema import ROW, to_dict
from vigc.platform.sources import open_source
from vigc.platform.storage import LocalFolder

KINDS = (Kind.CONVERSATION, Kind.DETAIL, Kind.REASONING)
REQUEST = {"kinds": [str(kind) for kind in KINDS], "model": {"name": "InstantWorker"}, "source": "vigc bench data"}
IMAGE_SIZE, NUM_SLOTS = 32, 64
NUM_FILES, FILE_SIZE = 8, (96, 72)
WORDS_PER_SENTENCE, SENTENCES, NUM_TALKS = 12, 3, 1024
GOING_FROM = 0.2  # share of the run after which all processes are there, and memory ought not to grow


class InstantWorker:
    """In the place of the model: gives each image three conversations that lie ready, of a usual length."""

    def __init__(self) -> None:
        rng = random.Random(0)
        talks = [[to_dict(_talk(kind, rng)) for kind in KINDS] for _ in range(NUM_TALKS)]
        self._talks = pa.array(talks, ROW.field("conversations").type)

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        yield self.rows(batch)

    def rows(self, batch: pa.Table) -> pa.Table:
        """Of a batch of decode.DECODED, or of manifest records, which count as decoded."""
        names = batch.column_names
        is_failed = pc.is_valid(batch["error_kind"]) if "error_kind" in names else pa.array([False] * batch.num_rows)
        which = [zlib.crc32(image_id.encode()) % NUM_TALKS for image_id in batch["image_id"].to_pylist()]
        made = {
            "status": pc.if_else(is_failed, RowStatus.FAILED.value, RowStatus.OK.value),
            "conversations": self._talks.take(pa.array(which)),
            "pass": pa.array(["001"] * batch.num_rows),
        }
        if pc.any(is_failed).as_py():
            raise RunError("An image of the benchmark could not be read. Is its folder being removed?")
        columns = {name: batch[name] for name in ROW.names if name in names} | made
        nothing = {name: pa.nulls(batch.num_rows, ROW.field(name).type) for name in ROW.names if name not in columns}
        return pa.table(columns | nothing).select(ROW.names).cast(ROW)


def _talk(kind: Kind, rng: random.Random) -> Conversation:
    def sentence() -> str:
        words = ("".join(rng.choices("aeioulnrst", k=rng.randint(2, 9))) for _ in range(WORDS_PER_SENTENCE))
        return f"{' '.join(words).capitalize()}."

    said = [sentence() for _ in range(SENTENCES)]
    steps = [CorrectionStep(one, one, Stop.SENTENCE, 16, rng.uniform(-2, 0)) for one in said]
    question, vig_answer = f"{sentence()[:-1]}?", " ".join(sentence() for _ in range(SENTENCES))
    return Conversation(
        kind=kind,
        instruction="Answer at once.",
        question=question,
        vig_answer=vig_answer,
        one_shot_answer=None,
        answer=" ".join(said),
        steps=[*steps, CorrectionStep("", "", Stop.END, 1, None)],
        sentences=[Sentence(one) for one in said],
        num_tokens=100,
    )


def data(
    *,
    rows: Sequence[int],
    rows_per_block: int,
    resume_at: Sequence[int],
    without_ray: bool,
    work: Path | None,
    json_file: Path | None,
    plot_file: Path | None,
) -> None:
    """Measures at each number of rows in turn.

    Args:
        resume_at: per cent of the rows that are done when a resume is timed.
        without_ray: writes the rows block by block without Ray, so that creating, listing and verifying large data sets
            can be timed in little time; nothing is decoded, and no run and no resume is timed.
        work: where data sets go while they are measured; None: the temporary folder.
    """
    console = make_console()
    figures: dict[str, Any] = {"rows_per_block": rows_per_block, "worker": "InstantWorker"}
    runs: dict[str, list[MemorySample]] = {}
    console.print(
        "model: InstantWorker, which answers at once; no network is run\n"
        + (
            "rows are written without Ray, and nothing is decoded"
            if without_ray
            else f"images: {NUM_FILES} JPEG files of {FILE_SIZE[0]} x {FILE_SIZE[1]} pixels, read and decoded "
            f"to {IMAGE_SIZE} x {IMAGE_SIZE} once for each row"
        )
    )
    for number in rows:
        if work is not None:
            work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="vigc-bench-", dir=work) as folder:
            measured = _Measurement(Path(folder), number, rows_per_block, resume_at)
            found = measured.without_ray() if without_ray else measured.with_ray()
        _print(console, number, found)
        figures |= {f"{name}_{number}": value for name, value in found.items()}
        if measured.samples:
            runs[f"{number:,} rows"] = measured.samples
    if len(rows) > 1 and not without_ray:
        for name in ("rows_per_s", "rows_per_s_going"):
            found_rates = [figures[f"{name}_{number}"] for number in rows]
            figures[f"slowest_to_fastest_{name}"] = min(found_rates) / max(found_rates)
            console.print(f"{name}, slowest to fastest: {min(found_rates) / max(found_rates):.2f}")
    if plot_file is not None and runs:
        plot_file.parent.mkdir(parents=True, exist_ok=True)
        plot_file.write_text(draw(runs), encoding="utf-8")
    write_figures(json_file, figures)


class _Measurement:
    """Of one number of rows, in a folder of its own."""

    def __init__(self, folder: Path, rows: int, rows_per_block: int, resume_at: Sequence[int]) -> None:
        self._folder, self._rows, self._rows_per_block, self._resume_at = folder, rows, rows_per_block, resume_at
        self._out = folder / "out"
        self.samples: list[MemorySample] = []

    def with_ray(self) -> dict[str, float]:
        figures = self._create()
        ran, self.samples = self._run(self._out)
        figures |= {
            "start_s": ran.first_at - ran.began,
            **rates(ran, self._rows),
            "run_s": ran.seconds,
            **growth(self.samples, ran.first_at, ran.last_at, GOING_FROM),
        }
        figures |= self._finished()
        for share in self._resume_at:
            partial = self._folder / f"done-{share}"
            copy_up_to(self._out, partial, share / 100)
            began = time.monotonic()
            Store(partial).passes()[0].ledger()
            figures[f"list_s_at_{share}"] = time.monotonic() - began
            ran, _ = self._run(partial, until_first_commit=True)
            figures[f"resume_s_at_{share}"] = ran.first_at - ran.began
            shutil.rmtree(partial)
        ran, _ = self._run(self._out)
        figures["resume_s_at_100"] = ran.seconds
        return figures

    def without_ray(self) -> dict[str, float]:
        figures = self._create()
        filled, peak = _apart(_fill, self._out)
        figures |= {"write_rows_per_s": self._rows / filled, "write_peak_mb": peak / MB} | self._finished()
        for share in self._resume_at:
            partial = self._folder / f"done-{share}"
            copy_up_to(self._out, partial, share / 100)
            figures[f"list_s_at_{share}"], _ = _apart(_list, partial)
            shutil.rmtree(partial)
        return figures

    def _create(self) -> dict[str, float]:
        manifest = self._folder / "manifest.parquet"
        write_manifest(manifest, draw_images(self._folder), self._rows)
        seconds, peak = _apart(_create, manifest, self._out, self._rows_per_block)
        return {"create_s": seconds, "create_peak_mb": peak / MB}

    def _finished(self) -> dict[str, float]:
        files = [path for path in self._out.rglob("*") if path.is_file()]
        seconds, peak = _apart(_verify, self._out)
        return {
            "num_files": len(files),
            "mb": sum(path.stat().st_size for path in files) / MB,
            "verify_s": seconds,
            "verify_peak_mb": peak / MB,
        }

    def _run(self, out: Path, *, until_first_commit: bool = False) -> tuple[Ran, list[MemorySample]]:
        child = Child(_Caller)
        try:
            child.call((_ready, ()))
            assert child.pid is not None
            with MemoryWatch(child.pid) as watch:
                ran, _ = child.call((run_pass, (out, until_first_commit)))
            return ran, watch.samples
        finally:
            child.stop()


class _Caller:
    """What runs in a driver process of its own: a function, and how much memory there was at most until its end."""

    def __call__(self, work: tuple[Callable[..., Any], tuple[Any, ...]]) -> tuple[Any, int]:
        function, args = work
        return function(*args), peak_bytes()


def _apart(function: Callable[..., Any], *args: Any) -> Any:
    child = Child(_Caller)
    try:
        return child.call((function, args))
    finally:
        child.stop()


def _ready() -> None:
    """So that the process is there, and its own start is not counted."""


@dataclass(frozen=True)
class Ran:
    """A run that was watched; moments in time.monotonic's seconds."""

    began: float
    seconds: float
    moments: Sequence[tuple[float, int]]  # when how many rows were committed

    @property
    def first_at(self) -> float:
        return self.moments[0][0]

    @property
    def last_at(self) -> float:
        return self.moments[-1][0]


def rates(ran: Ran, rows: int) -> dict[str, float]:
    """Rows per second from the first commit to the last, and of the part after GOING_FROM of the rows."""
    going = next(moment for moment in ran.moments if moment[1] >= GOING_FROM * rows)
    whole, late = (_rate(since, ran.moments[-1]) for since in (ran.moments[0], going))
    return {"rows_per_s": whole, "rows_per_s_going": whole if going == ran.moments[-1] else late}


def _rate(since: tuple[float, int], until: tuple[float, int]) -> float:
    return (until[1] - since[1]) / max(until[0] - since[0], 1e-9)


def run_pass(out: Path, until_first_commit: bool) -> Ran:
    """Runs what remains of a data set's pass, in this process."""
    began = time.monotonic()
    moments: tuple[tuple[float, int], ...] = ()

    def note(now: Progress) -> None:
        nonlocal moments
        if not now.moments:
            return
        moments = now.moments
        if until_first_commit and not now.is_stopping:
            os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C does: what is under way is committed

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        pass_ = Store(out).passes()[0]
        graph = pipeline.Graph(worker=InstantWorker, image_size=IMAGE_SIZE, num_slots=NUM_SLOTS)
        pipeline.run(pass_, graph, on_progress=note)
    except KeyboardInterrupt:
        if not until_first_commit:
            raise
    finally:
        signal.signal(signal.SIGINT, before)
    return Ran(began, time.monotonic() - began, moments)


def _create(manifest: Path, out: Path, rows_per_block: int) -> float:
    began = time.monotonic()
    Store(out).create_pass(REQUEST, open_source(str(manifest)), rows_per_block)
    return time.monotonic() - began


def _verify(out: Path) -> float:
    began = time.monotonic()
    found = verify(out)
    if not found.ok:
        raise RunError(f"The benchmark's data set is not whole: {found.problems[0]} This is a fault in vigc.")
    return time.monotonic() - began


def _list(out: Path) -> float:
    began = time.monotonic()
    pass_ = Store(out).passes()[0]
    list(pass_.ledger().remaining())
    return time.monotonic() - began


def _fill(out: Path) -> float:
    """All rows, block by block as a run commits them, in this process."""
    began = time.monotonic()
    pass_ = Store(out).passes()[0]
    worker, merger = InstantWorker(), Merger(pass_.folder, pass_.ledger())
    try:
        for shard, numbers in pass_.ledger().remaining():
            for block in (Block(shard, number) for number in numbers):
                rows = worker.rows(read_block(pass_.folder, pass_.layout, block))
                merger.add(block, commit(pass_.folder, block, rows))
        merger.finish()
    finally:
        merger.close()
    return time.monotonic() - began


def draw_images(folder: Path) -> list[Path]:
    from PIL import Image

    rng = np.random.default_rng(0)
    paths = []
    for number in range(NUM_FILES):
        coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(coarse).resize(FILE_SIZE, Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


def write_manifest(path: Path, images: list[Path], rows: int) -> None:
    """Different ids, and few different addresses."""
    some = 20_000
    with pq.ParquetWriter(path, pa.schema([("image_id", pa.string()), ("uri", pa.string())])) as writer:
        for start in range(0, rows, some):
            numbers = range(start, min(start + some, rows))
            ids = [f"train/patch{number // 1000}/bench_v1_{number:08}.jpg" for number in numbers]
            uris = [str(images[number % len(images)]) for number in numbers]
            writer.write_table(pa.table({"image_id": ids, "uri": uris}))


def copy_up_to(finished: Path, out: Path, share: float) -> None:
    """A data set as a run leaves it when so much of it is done: shards that were merged by then, and blocks.

    Args:
        finished: a data set of one pass, of which nothing lacks; its files are linked, not copied.
    """
    whole = Store(finished).passes()[0]
    wanted = _Wanted(whole, share)
    target = LocalFolder(str(out / "passes" / whole.number))
    for name in ("layout.json", "request.json", *(f"manifest/{one}" for one in whole.folder.names("manifest"))):
        _link(whole.folder.uri, target.uri, name)
    for one in whole.ledger().finished:
        if all(wanted.num_blocks(shard) == whole.layout.num_blocks(shard) for shard in one.shards):
            _link(whole.folder.uri, target.uri, one.file)
            target.write(one.marker, marker_of(one))
        elif any(map(wanted.num_blocks, one.shards)):
            for block, rows in _blocks(whole, one.file, one.shards):
                if block.number < wanted.num_blocks(block.shard):
                    commit(target, block, rows)


@dataclass(frozen=True)
class _Wanted:
    """Shards are made one after the other."""

    whole: Pass
    share: float

    def num_blocks(self, shard: int) -> int:
        layout = self.whole.layout
        left = round(self.share * layout.num_images) - shard * layout.rows_per_shard
        return min(layout.num_blocks(shard), max(0, left // layout.rows_per_block))


def _blocks(whole: Pass, file: str, shards: list[int]) -> Iterator[tuple[Block, pa.Table]]:
    """The blocks that were merged into a file."""
    order = (Block(shard, number) for shard in shards for number in range(whole.layout.num_blocks(shard)))
    waiting: list[pa.Table] = []
    block = next(order, None)
    for batch in whole.folder.open_parquet(file).iter_batches(10_000):
        joined = pa.concat_tables([*waiting, pa.Table.from_batches([batch])])
        while block is not None and joined.num_rows >= (length := whole.layout.num_rows_of(block)):
            yield block, joined.slice(0, length)
            joined = joined.slice(length)
            block = next(order, None)
        waiting = [joined]


def _link(source: str, target: str, name: str) -> None:
    path = Path(target, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.link(Path(source, name), path)


_ROWS = (
    ("create_s", "create the pass", "s"),
    ("create_peak_mb", "  its peak memory", "MB"),
    ("start_s", "from the start to the first commit", "s"),
    ("rows_per_s", "rows per second, from the first commit to the last", ""),
    ("rows_per_s_going", f"  after the first {GOING_FROM:.0%} of the rows", ""),
    ("run_s", "the whole run", "s"),
    ("write_rows_per_s", "rows written and merged per second, without Ray", ""),
    ("write_peak_mb", "  peak memory", "MB"),
    ("driver_peak_mb", "driver, peak memory", "MB"),
    ("driver_growth_mb", f"  growth after the first {GOING_FROM:.0%} of the run", "MB"),
    ("worker_peak_mb", "largest worker, peak memory", "MB"),
    ("worker_growth_mb", f"  growth after the first {GOING_FROM:.0%} of the run", "MB"),
    ("ray_peak_mb", "largest of Ray's servers, peak memory", "MB"),
    ("ray_growth_mb", f"  growth after the first {GOING_FROM:.0%} of the run", "MB"),
    ("num_files", "files at the end", ""),
    ("mb", "their size", "MB"),
    ("verify_s", "vigc verify", "s"),
    ("verify_peak_mb", "  its peak memory", "MB"),
    ("list_s", "list what is done, at {} %", "s"),
    ("resume_s", "resume to the first new commit, at {} %", "s"),
    ("resume_s_at_100", "find that nothing is left to do", "s"),
)


def _print(console: Console, rows: int, figures: dict[str, float]) -> None:
    table = Table("", f"{rows:,} rows", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for name, label, unit in _ROWS:
        digits = 0 if unit in ("", "MB") else 2
        for key in (key for key in figures if key == name or re.fullmatch(rf"{name}_at_(?!100)\d+", key)):
            value = f"{figures[key]:,.{digits}f} {unit}".rstrip()
            table.add_row(label.format(key.rpartition("_")[2]), value)
    console.print(table)
