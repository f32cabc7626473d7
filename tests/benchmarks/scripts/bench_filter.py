"""What deciding about a large data set takes, in time and memory.

python tests/benchmarks/scripts/bench_filter.py [--rows 20000] [--work FOLDER] [--json FILE]

The rows are made up, with the traits that cost: a box for each of some objects, two answers in sentences of which some
name what is absent, questions of a few thousand wordings besides the ones that nearly every image is asked, and copies
of images. Each step runs in a process of its own, so its peak is its own.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.table import Table

from vigc.jobs.bench.common import write_figures
from vigc.jobs.bench.memory import MB, peak_bytes
from vigc.jobs.dataset.filter import run_filter
from vigc.jobs.terminal import make_console
from vigc.platform.dataset.layout import Block
from vigc.platform.dataset.ledger import commit
from vigc.platform.dataset.passes import read_block
from vigc.platform.dataset.store import Store
from vigc.platform.dataset.verify import verify
from vigc.platform.images.isolation import Child
from vigc.platform.quality.presence import NameObjects
from vigc.platform.quality.settings import FilterSettings
from vigc.platform.records import Conversation, CorrectionStep, ImageRecord, Kind, ObjectBox, RowStatus, Sentence, Stop
from vigc.platform.report import write_report
from vigc.platform.report.summary import summarise
from vigc.platform.schema import ROW, to_dict
from vigc.platform.sources.base import Source, in_tables
from vigc.platform.vocabulary import load_vocabulary

KINDS = (Kind.CONVERSATION, Kind.DETAIL, Kind.REASONING)
REQUEST = {"kinds": [str(kind) for kind in KINDS], "source": "bench_filter.py"}
ROWS_PER_BLOCK = 2_000
NUM_SCENES = 4_000  # different sets of objects with what is said about them; questions differ from row to row
SHARE_COPIES, SHARE_USUAL, SHARE_ABSENT_VIG, SHARE_ABSENT = 0.05, 0.15, 0.15, 0.04
PLACES = ("on the left", "on the right", "in the middle", "at the back", "in front", "near the edge", "by the wall")
DETAILS = ("old", "new", "small", "large", "red", "blue", "green", "white", "shiny", "worn", "striped", "wooden")
USUAL = "What is the man doing?"
WORDINGS = (
    "What colour is the {detail} {thing} {place}?",
    "Is there a {thing} {place}?",
    "How many {thing}s can be seen {place}, and are they {detail}?",
    "Why might the {detail} {thing} be {place} of the {other}?",
    "What could the {thing} {place} be used for together with the {detail} {other}?",
)


class MadeUp(Source):
    """Records without objects; those come with the rows."""

    name = "bench"

    def __init__(self, num: int) -> None:
        self._num = num

    def describe(self) -> str:
        return str(REQUEST["source"])

    def tables(self) -> Iterator[pa.Table]:
        return in_tables(ImageRecord(f"train/{number:08}.jpg", "/nowhere") for number in range(self._num))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=20_000, help="made-up rows, of three conversations each")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="where the data go meanwhile")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    given = parser.parse_args()
    measure(rows=given.rows, work=given.work, json_file=given.json)


def measure(*, rows: int, work: Path | None, json_file: Path | None) -> None:
    """Makes the rows, then times every step over all of them."""
    console = make_console()
    figures: dict[str, Any] = {"rows": rows, "conversations": rows * len(KINDS)}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vigc-bench-", dir=work)))
        out = folder / "data"
        steps: dict[str, Callable[..., float]] = {
            "make": _make,
            "summary": _summary,
            "filter": _filter,
            "filter again": _filter,
            "filter with balance": _balance,
            "summary after": _summary,
            "report": _report,
            "verify": _verify,
        }
        table = Table(box=None, padding=(0, 3, 0, 0))
        for heading in ("step", "s", "peak MB"):
            table.add_column(heading, header_style="dim", justify="left" if heading == "step" else "right")
        for name, step in steps.items():
            seconds, peak = _apart(step, out, rows)
            key = name.replace(" ", "_")
            figures |= {f"{key}_s": seconds, f"{key}_peak_mb": peak / MB}
            table.add_row(name, f"{seconds:.1f}", f"{peak / MB:.0f}")
        figures["mb"] = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / MB
        about = next(one for one in summarise(Store(out))["verdicts"])
        figures |= {"kept": about["kept"], "rejected": about["rejected"]}
        figures |= {f"rejected_{one['name']}": one["rejected"] for one in about["filters"]}
    console.print(table)
    console.print(f"{rows} rows, {figures['conversations']} conversations, {figures['mb']:.0f} MB")
    write_figures(json_file, figures)


def _apart(step: Callable[..., float], *args: Any) -> tuple[float, int]:
    child = Child(_Caller, (step, args))
    try:
        found: tuple[float, int] = child.call(None)
        return found
    finally:
        child.stop()


class _Caller:
    """Calls in a process of its own, and says what it held at most."""

    def __init__(self, step: Callable[..., float], args: tuple[Any, ...]) -> None:
        self._step, self._args = step, args

    def __call__(self, _: None) -> tuple[float, int]:
        return self._step(*self._args), peak_bytes()


def _make(out: Path, rows: int) -> float:
    began = time.monotonic()
    vocabulary = load_vocabulary("coco")
    pass_ = Store(out).create_pass(REQUEST, MadeUp(rows), ROWS_PER_BLOCK, vocabulary)
    chance = random.Random(0)
    name_objects = NameObjects(vocabulary)
    said = [_scene(chance, vocabulary.categories) for _ in range(NUM_SCENES)]
    scenes = name_objects(pa.Table.from_pylist(said, ROW)).to_pylist()
    hashes: list[int] = []
    for shard, numbers in pass_.ledger().remaining():
        for block in (Block(shard, number) for number in numbers):
            records = read_block(pass_.folder, pass_.layout, block).to_pylist()
            made = [_row(record, chance, scenes, hashes) for record in records]
            commit(pass_.folder, block, pa.Table.from_pylist(made, ROW))
    return time.monotonic() - began


def _summary(out: Path, _: int) -> float:
    began = time.monotonic()
    summarise(Store(out))
    return time.monotonic() - began


def _filter(out: Path, _: int) -> float:
    began = time.monotonic()
    run_filter(str(out), FilterSettings())
    return time.monotonic() - began


def _balance(out: Path, _: int) -> float:
    began = time.monotonic()
    run_filter(str(out), FilterSettings(max_absent=0, max_opening=0.3, max_yes_no=0.5))
    return time.monotonic() - began


def _report(out: Path, _: int) -> float:
    """All of it, the summary included."""
    began = time.monotonic()
    write_report(Store(out))
    return time.monotonic() - began


def _verify(out: Path, _: int) -> float:
    began = time.monotonic()
    verify(out)
    return time.monotonic() - began


def _scene(chance: random.Random, categories: tuple[str, ...]) -> dict[str, Any]:
    """A row without id: objects, and conversations about them."""
    there = chance.sample(categories, chance.randint(1, 8))

    def sentences(share_absent: float, num: int) -> list[Sentence]:
        named = [chance.choice(categories if chance.random() < share_absent else there) for _ in range(num)]
        return [
            Sentence(f"There is a {chance.choice(DETAILS)} {one} {chance.choice(PLACES)}, close to something else.")
            for one in named
        ]

    spoken = []
    for kind, num in zip(KINDS, (1, 6, 3), strict=True):
        final, vig = sentences(SHARE_ABSENT, num), sentences(SHARE_ABSENT_VIG, num)
        steps = [CorrectionStep(one.text, one.text, Stop.SENTENCE, 14, chance.uniform(-2, 0)) for one in final]
        spoken.append(
            Conversation(
                kind=kind,
                instruction="Ask and answer.",
                question="",
                vig_answer=" ".join(one.text for one in vig),
                one_shot_answer=None,
                answer=" ".join(one.text for one in final),
                steps=[*steps, CorrectionStep("", "", Stop.END, 1, None)],
                sentences=final,
                vig_sentences=vig,
                num_tokens=40 * num,
            )
        )
    boxes = [ObjectBox(one, [0.0, 0.0, 9.0, 9.0]) for one in there]
    return {
        "status": RowStatus.OK.value,
        "objects": [to_dict(box) for box in boxes],
        "conversations": [to_dict(one) for one in spoken],
    }


def _row(
    record: dict[str, Any], chance: random.Random, scenes: list[dict[str, Any]], hashes: list[int]
) -> dict[str, Any]:
    scene = chance.choice(scenes)
    there = [box["category"] for box in scene["objects"]]
    is_copy = bool(hashes) and chance.random() < SHARE_COPIES
    phash = hashes[chance.randrange(len(hashes))] ^ (1 << chance.randrange(64)) if is_copy else chance.getrandbits(64)
    hashes.append(phash)
    spoken = []
    for one in scene["conversations"]:
        wording = "Describe this image." if one["kind"] == Kind.DETAIL else chance.choice(WORDINGS)
        if chance.random() < SHARE_USUAL and one["kind"] == Kind.CONVERSATION:
            wording = USUAL
        words = {"thing": chance.choice(there), "other": chance.choice(there)}
        question = wording.format(detail=chance.choice(DETAILS), place=chance.choice(PLACES), **words)
        spoken.append(one | {"question": question})
    return {
        **{name: record.get(name) for name in ROW.names},
        **{name: scene[name] for name in ("status", "objects", "objects_present")},
        "phash": f"{phash:016x}",
        "pass": "001",
        "conversations": spoken,
    }


if __name__ == "__main__":
    main()
