"""Which sample a run learns from next, and how it becomes a row: the data side of `vigc train`.

The whole run is one sequence of positions. What stands at a position follows from the seed alone, so every worker group
can go on at any of them, however many workers it has: an update always takes the same samples. Ray Data turns positions
into rows (fetch, decode, crop, word) on any node, each worker's own share in order.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from vigc.model.embedded.scene_rows import make_caption_row, make_chat_row, make_text_row, make_vision_row
from vigc.model.prompts import PromptPack
from vigc.model.scenes import VERSION
from vigc.model.training.recipe import Recipe
from vigc.model.training.tasks import Task, make_text
from vigc.platform.images.decode import decode_crop
from vigc.platform.instructions import Instructions
from vigc.platform.instructions.sides import mentions_sides
from vigc.platform.records import ConfigError, InputError, Kind, RowError

if TYPE_CHECKING:
    from numpy.typing import NDArray

RECORDS = pa.schema(
    [
        ("image", pa.string()),
        ("question", pa.string()),
        ("answers", pa.list_(pa.string())),
        ("weights", pa.list_(pa.float64())),
        ("kind", pa.string()),
        ("place", pa.string()),
    ]
)
TASKS = (Task.VIG, Task.VIC)
ROWS_PER_BLOCK = 256


@dataclass(frozen=True)
class TrainingData:
    """All sets of a run, one after the other."""

    table: pa.Table  # RECORDS
    set_sizes: tuple[int, ...]
    described: tuple[str, ...]  # one line for each set

    @property
    def about(self) -> str:
        return f"{self.table.num_rows:,} records"

    def fingerprint(self) -> dict[str, Any]:
        """What a resumed run must find again."""
        digest = hashlib.sha256()
        for column in self.table.combine_chunks().columns:
            for buffer in column.chunk(0).buffers():
                digest.update(buffer or b"")
        return {"num": self.table.num_rows, "sets": list(self.set_sizes), "sha256": digest.hexdigest()}


@dataclass(frozen=True)
class Scenes:
    """The scenes that the embedded model learns from, drawn as they are needed; no two are the same."""

    about: str = "rendered scenes"
    described: tuple[str, ...] = ()

    def fingerprint(self) -> dict[str, Any]:
        return {"scenes": VERSION}


def read_records(sets: Iterable[Instructions]) -> TrainingData:
    """Raises InputError for a set without records."""
    tables, described = [], []
    for instructions in sets:
        rows = [{name: getattr(record, name) for name in RECORDS.names} for record in instructions]
        if not rows:
            raise InputError(f"Nothing to learn from: {instructions.describe()}.")
        tables.append(pa.Table.from_pylist(rows, schema=RECORDS))
        described.append(f"{instructions.describe()}: {len(rows):,} questions")
    return TrainingData(pa.concat_tables(tables), tuple(table.num_rows for table in tables), tuple(described))


def make_order(recipe: Recipe, set_sizes: tuple[int, ...]) -> NDArray[np.int64]:
    """The entry at each position of the run; entry = 2 * record + task. A multiple of the batch.

    By "size" each epoch is a permutation of everything; by "sqrt" a set and task takes part with the square root of its
    size, so small sets come round more often (model/README.md, "Training").

    Raises:
        ConfigError: fewer samples than one batch.
    """
    starts = np.cumsum((0, *set_sizes[:-1]))
    share = {Task.VIG: recipe.tasks.vig, Task.VIC: recipe.tasks.vic}
    entries = [
        (2 * np.arange(start, start + size) + TASKS.index(task), share[task])
        for start, size in zip(starts, set_sizes, strict=True)
        for task in TASKS
        if share[task] > 0
    ]
    if not entries:
        raise ConfigError("tasks.vig and tasks.vic are both 0; nothing would be learnt.")
    per_epoch = sum(len(entry) for entry, _ in entries)
    power = 0.5 if recipe.mixture == "sqrt" else 1.0
    weights = np.array([len(entry) ** power * task_share for entry, task_share in entries])
    whole = power == 1.0 and len({task_share for _, task_share in entries}) == 1
    counts = [len(entry) for entry, _ in entries] if whole else _shares(weights / weights.sum(), per_epoch)
    wanted = recipe.num_updates * recipe.batch_size if recipe.num_updates else int(recipe.num_epochs * per_epoch)
    wanted -= wanted % recipe.batch_size
    if not wanted:
        raise ConfigError(
            f"{per_epoch} samples are fewer than one batch of {recipe.batch_size}; set batch_size lower, or num_epochs."
        )
    epochs = []
    for epoch in range(-(-wanted // per_epoch)):
        drawn = [
            _draw(recipe.seed, number, entry, epoch * count, count)
            for number, ((entry, _), count) in enumerate(zip(entries, counts, strict=True))
        ]
        epochs.append(np.random.default_rng([recipe.seed, epoch]).permutation(np.concatenate(drawn)))
    return np.concatenate(epochs)[:wanted].astype(np.int64)


def _shares(shares: NDArray[np.float64], total: int) -> list[int]:
    """Whole numbers in these proportions that sum to `total`: largest remainders."""
    exact = shares * total
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    return [int(c) for c in counts]


def _draw(seed: int, number: int, entries: NDArray[np.int64], first: int, count: int) -> NDArray[np.int64]:
    """`count` entries of set `number` from the `first` on, of one permutation after another: in whole epochs none comes
    oftener than once more than another.
    """
    size = len(entries)
    rounds = range(first // size, -(-(first + count) // size))
    drawn = [np.random.default_rng([seed, number, turn, 1]).permutation(entries) for turn in rounds]
    start = first - rounds.start * size
    return np.concatenate([entries[:0], *drawn])[start : start + count]


class MakeRows:
    """Positions to rows of an InstructionObjective. An image that cannot be read gives a row without texts."""

    def __init__(
        self, records: Any, order: Any, recipe: Recipe, pack: PromptPack, image_size: int, *, augmented: bool
    ) -> None:
        self._refs = (records, order)  # in the object store: one copy per node
        self._recipe, self._pack, self._size, self._augmented = recipe, pack, image_size, augmented

    def __call__(self, positions: NDArray[np.int64]) -> dict[str, Any]:
        import ray

        records, order = ray.get(list(self._refs))
        rows = [self._row(records, int(order[position]), int(position)) for position in positions]
        columns: dict[str, Any] = {"position": positions}
        columns["pixels"] = (
            np.stack([row[0] for row in rows]) if rows else np.zeros((0, self._size, self._size, 3), "u1")
        )
        for place, name in enumerate(("prompts", "targets", "fault"), start=1):
            column = np.empty(len(rows), dtype=object)
            column[:] = [row[place] for row in rows]
            columns[name] = column
        return columns

    def _row(self, records: pa.Table, entry: int, position: int) -> tuple[NDArray[np.uint8], list[str], list[str], str]:
        record, task = records.slice(entry // 2, 1).to_pylist()[0], TASKS[entry % 2]
        rng = random.Random(f"{self._recipe.seed}/{position}")
        answer = rng.choices(record["answers"], record["weights"])[0]
        pixels = self._image(record["image"], rng, (record["question"], answer))
        if isinstance(pixels, RowError):
            empty = np.zeros((self._size, self._size, 3), dtype=np.uint8)
            return empty, [], [], f"{record['place']}: {pixels.kind}: {pixels.message}"
        elsewhere = records.slice(rng.randrange(records.num_rows), 1).to_pylist()[0]
        told = Kind(record["kind"]), record["question"], answer
        prompt, target = make_text(self._pack, self._recipe.tasks, task, *told, rng, elsewhere["answers"])
        return self._array(pixels), [prompt], [target], ""

    def _image(
        self, image: str, rng: random.Random, texts: Iterable[str], *, centred: bool = False
    ) -> bytes | RowError:
        augment = self._recipe.augment
        flip = self._augmented and rng.random() < augment.flip and not any(map(mentions_sides, texts))
        return decode_crop(image, self._size, rng, augment.min_scale if self._augmented else 1.0, flip, centred=centred)

    def _array(self, pixels: bytes) -> NDArray[np.uint8]:
        return np.frombuffer(pixels, dtype=np.uint8).reshape(self._size, self._size, 3)


class MakeSceneRows:
    """Positions to rows of an objective that learns from scenes; scene and position have the same number."""

    def __init__(self, recipe: Recipe, pack: PromptPack, image_size: int, patch_size: int) -> None:
        self._recipe, self._pack, self._size, self._patch = recipe, pack, image_size, patch_size

    def __call__(self, positions: NDArray[np.int64]) -> dict[str, Any]:
        # A block in which this worker has no share still says what its columns are.
        rows = [self._row(int(position)) for position in positions] or [self._row(0)]
        columns: dict[str, Any] = {"position": positions}
        for name, value in rows[0].items():
            if isinstance(value, list):
                column = np.empty(len(rows), dtype=object)
                column[:] = [row[name] for row in rows]
            else:
                column = np.stack([row[name] for row in rows])
            columns[name] = column[: len(positions)]
        return columns

    def _row(self, index: int) -> Mapping[str, Any]:
        recipe = self._recipe
        if recipe.objective == "captions":
            return make_caption_row(recipe.seed, index, image_size=self._size)
        if recipe.objective == "eyes":
            return make_vision_row(recipe.seed, index, image_size=self._size, patch_size=self._patch)
        make = make_chat_row if recipe.objective == "scene_chat" else make_text_row
        return make(recipe.seed, index, image_size=self._size, pack=self._pack, mixture=recipe.texts)


@dataclass(frozen=True)
class Deal:
    """The share of one worker: within each update's samples, a run of positions of its own."""

    make_rows: Callable[[NDArray[np.int64]], dict[str, Any]]
    start: int
    batch_size: int
    rank: int
    world_size: int

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        positions = self.start + batch["id"]
        own = self.batch_size // self.world_size
        return self.make_rows(positions[(positions % self.batch_size) // own == self.rank])


def num_blocks(num_positions: int, batch_size: int) -> int:
    """So many that each block holds whole updates, nearly: every worker finds rows of its own in it."""
    return max(1, num_positions // max(ROWS_PER_BLOCK, 2 * batch_size))
