"""The training loop: one update after another, with evaluation, checkpoints and early stop.

It knows nothing of where rows come from or where checkpoints go. Every random choice of an update is seeded by (seed,
update, process), so a run that was interrupted goes on as if it had not been.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from vigc.model.training.objective import Batch
from vigc.model.training.parallel import Parallel, all_sum, rank, world_size
from vigc.model.training.recipe import Recipe
from vigc.model.training.schedule import Schedule
from vigc.platform.records import VigcError

FEWEST_SAMPLES = 1000  # that a share of unreadable images is counted against


@dataclass(frozen=True, slots=True)
class TrainingState:
    """How far a run is."""

    update: int = 0  # updates done
    num_samples: int = 0  # consumed, over all processes
    num_unreadable: int = 0  # of those: their image could not be read, and nothing was learnt from them
    best_loss: float = math.inf  # of the evaluations so far
    num_worse: int = 0  # evaluations since the best


@dataclass(frozen=True, slots=True)
class Report:
    """What one update, or one evaluation, gave."""

    state: TrainingState
    metrics: dict[str, float]


class UnreadableError(VigcError):
    """Too many images cannot be read for what is left to be the data that was meant."""


MicroBatches = Iterator[list[Batch]]  # one item per update: this process's micro-batches


def seed_update(seed: int, update: int) -> None:
    """Dropout and whatever else draws in this update, in this process."""
    name = f"{seed}/{update}/{rank()}".encode()
    torch.manual_seed(int.from_bytes(hashlib.sha256(name).digest()[:8], "big") >> 1)


def train(
    parallel: Parallel,
    recipe: Recipe,
    num_updates: int,
    batches: MicroBatches,
    *,
    state: TrainingState,
    evaluation: Callable[[], Iterator[Batch]] | None = None,
    on_update: Callable[[Report], None],
    on_checkpoint: Callable[[TrainingState, dict[str, float]], None],
    peak_flops: float | None = None,
) -> TrainingState:
    """Runs from `state` to `num_updates`, or to the early stop; every process calls this.

    Args:
        evaluation: batches of the validation set, this process's part, as many in every process.
        on_checkpoint: called where a checkpoint is due and at the end, with the evaluation made there.
        peak_flops: of one device, per second; for the share of it that is used.
    Raises:
        UnreadableError: more images than the recipe allows cannot be read; in every process at the same update.
    """
    schedule = make_schedule(recipe, num_updates)
    while state.update < num_updates:
        began = time.perf_counter()
        micro_batches = next(batches)
        waited = time.perf_counter() - began
        seed_update(recipe.seed, state.update)
        learning_rate = schedule.at(state.update)
        metrics, num_unreadable = _update(parallel, micro_batches, learning_rate)
        state = replace(
            state,
            update=state.update + 1,
            num_samples=state.num_samples + recipe.batch_size,
            num_unreadable=state.num_unreadable + num_unreadable,
        )
        _require_readable(state, recipe)
        took = time.perf_counter() - began
        metrics |= {"learning_rate": learning_rate, **_rates(parallel, micro_batches, took, waited, peak_flops)}
        metrics["num_unreadable"] = state.num_unreadable
        last = state.update == num_updates
        measured: dict[str, float] = {}
        if evaluation is not None and (last or _due(state.update, recipe.evaluate_every)):
            measured = evaluate(parallel, evaluation())
            better = measured["val_loss"] < state.best_loss
            state = replace(
                state,
                best_loss=min(state.best_loss, measured["val_loss"]),
                num_worse=0 if better else state.num_worse + 1,
            )
        on_update(Report(state, metrics | measured))
        stops = bool(recipe.patience) and state.num_worse >= recipe.patience
        if last or stops or _due(state.update, recipe.checkpoint_every) or measured:
            on_checkpoint(state, measured)
        if stops:
            break
    return state


def _require_readable(state: TrainingState, recipe: Recipe) -> None:
    if state.num_unreadable > recipe.max_unreadable * max(state.num_samples, FEWEST_SAMPLES):
        raise UnreadableError(
            f"{state.num_unreadable:,} of {state.num_samples:,} samples have an image that cannot be read. "
            "Is --images the right folder? --set max_unreadable=1 goes on with the rest."
        )


def make_schedule(recipe: Recipe, num_updates: int) -> Schedule:
    settings = recipe.optimizer
    warmup = min(settings.num_warmup, num_updates // 2)
    return Schedule(settings.peak, settings.floor, num_updates, warmup, settings.start)


def evaluate(parallel: Parallel, batches: Iterator[Batch]) -> dict[str, float]:
    """Mean loss over the validation set of all processes.

    Raises:
        UnreadableError: none of its images can be read.
    """
    parallel.objective.eval()
    try:
        total = counted = 0.0
        for batch in batches:
            total += parallel.loss(batch)[0]
            counted += batch.num_counted
    finally:
        parallel.objective.set_modes()
    total, counted = all_sum([total, counted], parallel.device)
    if not counted:
        raise UnreadableError("No image of the validation set can be read. Is --images the right folder?")
    return {"val_loss": total / counted}


def _update(parallel: Parallel, micro_batches: list[Batch], learning_rate: float) -> tuple[dict[str, float], int]:
    """What to watch, and the number of rows in all processes that nothing could be learnt from."""
    own = [sum(b.num_counted for b in micro_batches), float(sum(b.num_unreadable for b in micro_batches))]
    counted, num_unreadable = all_sum(own, parallel.device)
    total = 0.0
    metrics: dict[str, float] = {}
    for number, batch in enumerate(micro_batches, start=1):
        loss, metrics = parallel.backward(batch, counted, last=number == len(micro_batches))
        total += loss
    norm = parallel.step(learning_rate)
    (total,) = all_sum([total], parallel.device)
    return {"loss": total / max(1.0, counted), "gradient_norm": norm, **metrics}, int(num_unreadable)


def _rates(
    parallel: Parallel, micro_batches: list[Batch], took: float, waited: float, peak_flops: float | None
) -> dict[str, float]:
    """Of all processes, as far as this one can tell: they do alike."""
    rows, tokens = sum(b.num_rows for b in micro_batches), sum(b.num_tokens for b in micro_batches)
    rates = {
        "samples_per_s": rows * world_size() / took,
        "tokens_per_s": tokens * world_size() / took,
        "waited_share": waited / took,
    }
    flops = sum(parallel.objective.flops(b) for b in micro_batches)
    if flops:
        rates["tflops_per_s"] = flops * world_size() / took / 1e12
    if flops and peak_flops:
        rates["mfu"] = flops / took / peak_flops
    return rates


def _due(update: int, every: int) -> bool:
    return bool(every) and update % every == 0
