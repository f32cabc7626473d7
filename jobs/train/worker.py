"""What each worker of a training run does: load, take its share of the rows, run the loop, hand over checkpoints.

Ray Train calls `train_worker` in every process of the group, again after a worker was lost; the newest checkpoint says
where to go on. Progress goes to the driver through a queue, from the first worker only.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vigc.model.training.recipe import Recipe
from vigc.platform.records import ConfigError, VigcError

if TYPE_CHECKING:
    from vigc.model.training.loop import Report, TrainingState
    from vigc.model.training.objective import Batch, Objective, Row
    from vigc.model.training.parallel import Parallel

TRAINED, STATE = "trained.safetensors", "state.json"
SCORE, UNSCORED = "score", 1e30  # of a checkpoint: its validation loss, or worse than any
METRICS_EVERY_S = 0.5
MAX_FAULTS_TOLD = 3  # by each worker


@dataclass(frozen=True)
class TrainSettings:
    """All that a training worker needs to know."""

    recipe: Recipe
    model: str
    base_sha256: str | None  # of the model's weights; None: of those that are downloaded, which a worker has
    device: str
    num_updates: int
    evaluates: bool
    num_threads: int
    samples: list[Row]  # of the validation set, to be answered at each evaluation
    queue: Any  # ray.util.queue.Queue to the driver


class OrderError(VigcError):
    """Rows did not arrive in the order that the run promised."""


def train_worker(config: dict[str, Any]) -> None:
    """The loop function of a TorchTrainer; `config["settings"]` is a TrainSettings.

    What is wrong with the settings, the model or the images is told to the driver and ends the run: the same would
    happen again in every new group of workers, which is what Ray Train answers an exception with.
    """
    from vigc.model.training.loop import UnreadableError

    settings: TrainSettings = config["settings"]
    try:
        run = _set_up(settings)
    except VigcError as error:
        settings.queue.put({"error": f"Training did not start: {error}"})
        return
    try:
        _learn(settings, *run)
    except UnreadableError as error:
        settings.queue.put({"error": f"Training stopped: {error}"})


def _set_up(settings: TrainSettings) -> tuple[Parallel, TrainingState, str]:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DS_ACCELERATOR", "cpu" if settings.device == "cpu" else "cuda")
    import ray.train
    import torch
    from safetensors.torch import load_file

    from vigc.model.training.loop import TrainingState
    from vigc.model.training.parallel import make_parallel, rank
    from vigc.model.weights.model_folders import base_hash

    recipe = settings.recipe
    if settings.num_threads:
        torch.set_num_threads(settings.num_threads)
    torch.manual_seed(recipe.seed)  # adapters and heads start alike everywhere
    objective = make_objective(settings)
    parallel = make_parallel(objective, recipe, objective.network.device)
    state = TrainingState()
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            found = json.loads((Path(folder) / STATE).read_text())
            state = TrainingState(**found["state"])
            _require_world(recipe, found["world_size"])
            parallel.load(Path(folder), load_file(Path(folder) / TRAINED))
    return parallel, state, settings.base_sha256 or (base_hash(objective.network) if rank() == 0 else "")


def _learn(settings: TrainSettings, parallel: Parallel, state: TrainingState, base_sha256: str) -> None:
    import ray.train

    from vigc.model.training.flops import peak_flops
    from vigc.model.training.loop import train
    from vigc.model.training.parallel import rank, world_size

    recipe, objective = settings.recipe, parallel.objective
    last_sent = [0.0]
    if rank() == 0:
        settings.queue.put({"num_workers": world_size(), "after": state.update})

    def on_update(report: Report) -> None:
        now = time.monotonic()
        ends = report.state.update == settings.num_updates
        if rank() == 0 and (now - last_sent[0] >= METRICS_EVERY_S or ends or "val_loss" in report.metrics):
            last_sent[0] = now
            settings.queue.put({"update": report.state.update, **report.metrics})
        if rank() == 0 and "val_loss" in report.metrics and settings.samples and parallel.whole:
            objective.eval()
            said = objective.say(settings.samples)
            objective.set_modes()
            settings.queue.put({"update": report.state.update, "said": said})

    def on_checkpoint(state: TrainingState, measured: dict[str, float]) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            _save(folder, parallel, recipe, state, base_sha256)
            # Ray keeps a checkpoint without a score rather than a good one, so each has one.
            metrics = {"update": state.update, SCORE: measured.get("val_loss", UNSCORED), **measured}
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))

    def on_fault(fault: str) -> None:
        settings.queue.put({"fault": fault})

    batches = _batches(objective, recipe, state.num_samples, on_fault)
    train(
        parallel,
        recipe,
        settings.num_updates,
        batches,
        state=state,
        evaluation=(lambda: _evaluation(objective, recipe)) if settings.evaluates else None,
        on_update=on_update,
        on_checkpoint=on_checkpoint,
        # What a CPU could do depends on who else uses it, so a share of that would say nothing.
        peak_flops=None if parallel.device.type == "cpu" else peak_flops(recipe.precision, parallel.device),
    )


def make_objective(settings: TrainSettings) -> Objective[Any]:
    """The network with its loss; the same in every process for the same seed."""
    import torch

    from vigc.model.llava import LlavaNetwork
    from vigc.model.network import Network
    from vigc.model.training.chat import ChatObjective
    from vigc.model.training.instructions import InstructionObjective
    from vigc.model.training.scene_chat import SceneChatObjective
    from vigc.model.training.scene_texts import SceneTextObjective
    from vigc.model.training.scene_vision import SceneVisionObjective
    from vigc.model.training.trainable import set_trainable
    from vigc.model.weights.trainable_model import load_trainable_model

    recipe = settings.recipe
    autocast = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[recipe.precision]
    # Frozen weights need no more precision than the arithmetic has; trained ones become fp32.
    dtype = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[recipe.precision]
    device = settings.device
    if device == "cuda":
        import ray.train.torch

        device = str(ray.train.torch.get_device())
    network = load_trainable_model(settings.model, device=device, dtype=dtype if device != "cpu" else "float32")
    set_trainable(network, recipe.trainable)
    if device == "cpu":
        network.model.set_attn_implementation("eager")  # in bf16 faster there than sdpa, whose backward is slow
    checkpointing = recipe.gradient_checkpointing
    if recipe.objective in ("chat", "captions", "scene_chat"):
        if not isinstance(network, LlavaNetwork):
            raise ConfigError(f"{network.name}: the recipe {recipe.name} is for LLaVA-style models; take another.")
        if recipe.objective == "scene_chat":
            return SceneChatObjective(network, autocast=autocast)
        return ChatObjective(network, autocast=autocast, gradient_checkpointing=checkpointing)
    if not isinstance(network, Network):
        raise ConfigError(f"{network.name}: the recipe {recipe.name} is for InstructBLIP models; take another.")
    if recipe.objective == "eyes":
        return SceneVisionObjective(network, autocast=autocast)
    if recipe.objective == "words":
        return SceneTextObjective(network, auxiliary_weight=recipe.auxiliary_weight, autocast=autocast)
    return InstructionObjective(network, autocast=autocast, gradient_checkpointing=checkpointing)


def _require_world(recipe: Recipe, before: int) -> None:
    from vigc.model.training.parallel import world_size

    if recipe.parallel.startswith("zero") and before != world_size():
        raise VigcError(
            f"The checkpoint's DeepSpeed state was spread over {before} workers; it cannot be read by {world_size()}. "
            f"Run with --workers {before}, or with parallel=ddp."
        )


def _save(folder: Path, parallel: Any, recipe: Recipe, state: TrainingState, base_sha256: str) -> None:
    from safetensors.torch import save_file

    from vigc.model.training.parallel import rank, world_size

    parallel.save(folder)
    trained = parallel.trained()
    if rank() == 0:
        save_file({name: value.contiguous() for name, value in trained.items()}, folder / TRAINED)
        beginnings = recipe.trainable.beginnings(parallel.objective.network)
        found = {"state": asdict(state), "world_size": world_size(), "base_sha256": base_sha256}
        found["trainable"] = beginnings
        (folder / STATE).write_text(json.dumps(found))


def _batches(
    objective: Objective[Any], recipe: Recipe, start: int, on_fault: Callable[[str], None]
) -> Iterator[list[Batch]]:
    """This worker's micro-batches, update by update; what arrives is checked against the promised order.

    Args:
        on_fault: told why an image cannot be read, of the first few.
    """
    import ray.train

    from vigc.model.training.parallel import rank, rows_per_process

    own = rows_per_process(recipe)
    shard: Any = ray.train.get_dataset_shard("train")
    expected = start + rank() * own
    told = 0
    for positions, faults, micro_batches in shard.iter_torch_batches(
        batch_size=own, prefetch_batches=2, collate_fn=_collate(objective, recipe.micro_batch_size), device="cpu"
    ):
        if positions != list(range(expected, expected + own)):
            raise OrderError(
                f"Worker {rank()} expected the samples {expected} to {expected + own - 1} and got {positions[:3]}…; "
                "the same command goes on from the last checkpoint."
            )
        expected += recipe.batch_size
        for fault in faults[: MAX_FAULTS_TOLD - told]:
            on_fault(fault)
            told += 1
        yield micro_batches


def _evaluation(objective: Objective[Any], recipe: Recipe) -> Iterator[Batch]:
    import ray.train

    shard: Any = ray.train.get_dataset_shard("val")
    collate = _collate(objective, recipe.micro_batch_size)
    for *_, micro_batches in shard.iter_torch_batches(
        batch_size=recipe.micro_batch_size, collate_fn=collate, device="cpu"
    ):
        yield from micro_batches


def _collate(objective: Objective[Any], micro_batch_size: int) -> Any:
    from ray.data.collate_fn import NumpyBatchCollateFn

    class Collate(NumpyBatchCollateFn):
        def __call__(self, batch: dict[str, Any]) -> Any:
            names = list(batch)
            rows: list[Row] = [dict(zip(names, values, strict=True)) for values in zip(*batch.values(), strict=True)]
            positions = [int(row["position"]) for row in rows]
            faults = [str(row["fault"]) for row in rows if row.get("fault")]
            return (
                positions,
                faults,
                [objective.collate(rows[i : i + micro_batch_size]) for i in range(0, len(rows), micro_batch_size)],
            )

    return Collate()
