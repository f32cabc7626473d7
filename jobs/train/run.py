"""`vigc train`: a recipe and data in, trained weights out, over 1 to N workers, resumable.

A recipe of several stages has a RUN for each, named after the stage, and each starts from the model of the one before.

RUN/run.json        the settings; other settings in the same folder are refused, naming the difference
RUN/ray/            Ray Train's checkpoints
RUN/metrics.jsonl   metrics of the run, one line each
RUN/predictions.jsonl   answers to a few samples of the validation set at every evaluation
RUN/weights/        at the end: what was trained (safetensors) and which base it belongs to
RUN/model/          where it is asked for: the base with that put in, a model like any other
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from vigc.jobs.train.chat_data import rows_of
from vigc.jobs.train.data import MakeRows, MakeSceneRows, Scenes, make_order, num_blocks
from vigc.jobs.train.listener import Listener, OnMetrics, OnNote
from vigc.jobs.train.plan import TrainPlan
from vigc.jobs.train.worker import SCORE, STATE, TRAINED, TrainSettings, train_worker
from vigc.model.training.recipe import Recipe
from vigc.platform.dataset.request import differences
from vigc.platform.pipeline.ray_session import ray_session
from vigc.platform.pipeline.throttling import throttle
from vigc.platform.records import ConfigError, RunError, StoreError
from vigc.platform.storage.files import only_writer, written_whole

if TYPE_CHECKING:
    import ray.train

    from vigc.model.training.objective import Row

RUN, WEIGHTS, LOG = "run.json", "weights", "ray.log"
RAY, MODEL_FOLDER = "ray", "model"
CPUS_BESIDE_WORKERS = 2
Fitted = TypeVar("Fitted")
NUM_SAMPLES = 8  # of the validation set, whose answers are shown at every evaluation


@dataclass(frozen=True)
class TrainOutcome:
    out: Path
    update: int  # whose weights these are: the best, where there was validation, else the last
    val_loss: float | None
    trained: Path


def run_train(
    plan: TrainPlan, on_metrics: OnMetrics = lambda metrics: None, on_note: OnNote = lambda note: None
) -> TrainOutcome:
    """Trains to the end, from the last checkpoint where there is one.

    Args:
        on_metrics: called with the metrics of an update, now and then, from another thread.
        on_note: called with a line that a person should read.

    Raises:
        StoreError: RUN holds another run, or is written by another process.
        RunError: the workers failed for good; what is checkpointed stays.
    """
    plan.out.mkdir(parents=True, exist_ok=True)
    with only_writer(plan.out):
        _claim(plan)
        prepare_environment(plan.hardware.device)
        cpus = plan.num_workers * (plan.cpus_per_worker or 1) + CPUS_BESIDE_WORKERS
        with ray_session(plan.out / LOG, cpus, plan.num_workers * plan.hardware.gpus):
            result = _fit(plan, on_metrics, on_note)
        return _finish(plan, result)


def prepare_environment(device: str) -> None:
    """What Ray Train and DeepSpeed read; before Ray starts, whose processes inherit it."""
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("DS_ACCELERATOR", device.partition(":")[0])  # else DeepSpeed guesses, and says so
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # a report is taken once per check


def _claim(plan: TrainPlan) -> None:
    file = plan.out / RUN
    if file.exists():
        there = json.loads(file.read_text(encoding="utf-8"))
        if changed := differences(there, plan.request):
            raise StoreError(
                f"{plan.out} holds another run: {'; '.join(changed[:4])}. "
                "Give another --out, or the same settings to go on."
            )
        return
    with written_whole(file) as stream:
        json.dump(plan.request, stream, indent=2)


def _fit(plan: TrainPlan, on_metrics: OnMetrics, on_note: OnNote) -> ray.train.Result:
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})  # outlives every machine but this one
    rows = _rows(plan)
    val_rows: MakeRows | None = None
    val_positions: Any = None
    samples: list[Row] = []
    if plan.validation is not None:
        val_rows, val_positions = _validation(plan)
        samples = _samples(val_rows, val_positions.count())
    settings = TrainSettings(
        recipe=plan.recipe,
        model=plan.model.location,
        base_sha256=plan.model.weights if plan.model.files else None,
        device="cuda" if plan.hardware.is_gpu else plan.hardware.device,  # which GPU is Ray's to say
        num_updates=plan.num_updates,
        evaluates=plan.validation is not None,
        num_threads=_num_threads(plan),
        samples=samples,
        queue=queue,
    )
    run = plan.out / RAY
    datasets: dict[str, Any] = {"train": _Rest(str(run), len(plan.order), plan.recipe.batch_size)}
    if val_positions is not None:
        datasets["val"] = val_positions
    gpus = plan.hardware.is_gpu
    workers: Any = plan.num_workers
    if plan.fewest_workers < plan.num_workers:
        workers = (plan.fewest_workers, plan.num_workers)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"settings": settings},
        datasets=datasets,
        dataset_config=make_dealer(rows, val_rows, len(plan.order), plan.recipe),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpus,
            resources_per_worker={"CPU": plan.cpus_per_worker or 1} | ({"GPU": 1} if gpus else {}),
        ),
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        run_config=RunConfig(
            name=RAY,
            storage_path=str(plan.out),
            failure_config=FailureConfig(max_failures=plan.max_failures),
            checkpoint_config=CheckpointConfig(
                num_to_keep=2,
                checkpoint_score_attribute=SCORE if plan.validation is not None else None,
                checkpoint_score_order="min",
            ),
        ),
    )
    listener = Listener(plan, queue, samples, on_metrics, on_note)
    listener.start()
    result = None
    try:
        result = _in_a_thread(trainer.fit)
    except Exception as error:
        raise RunError(
            f"Training stopped: {_first_line(error)}. The same command goes on from the last checkpoint; "
            f"{plan.out / LOG} and the logs it names hold the rest."
        ) from error
    finally:
        listener.stop(interrupted=result is None)
    if listener.error is not None:
        raise RunError(listener.error)
    return result


def _in_a_thread(fit: Callable[[], Fitted]) -> Fitted:
    """Called from the main thread, Ray Train takes Ctrl-C for itself and ends the process as if all were well."""
    fitted: Future[Fitted] = Future()

    def run() -> None:
        try:
            fitted.set_result(fit())
        except BaseException as error:  # noqa: BLE001  raised in the thread that waits
            fitted.set_exception(error)

    Thread(target=run, name="fit", daemon=True).start()  # not of an executor, which would be waited for at the exit
    return fitted.result()


def _num_threads(plan: TrainPlan) -> int:
    """Of torch in each worker; 0 leaves it to torch, which takes the whole machine."""
    if plan.hardware.is_gpu:
        return 0
    return plan.cpus_per_worker or (1 if plan.num_workers > 1 else 0)


def _rows(plan: TrainPlan) -> MakeRows | MakeSceneRows:
    import ray

    if isinstance(plan.data, Scenes):
        return MakeSceneRows(plan.recipe, plan.pack, plan.model.image_size, plan.model.patch_size)
    records, order = ray.put(plan.data.table), ray.put(plan.order)
    return rows_of(plan.recipe)(records, order, plan.recipe, plan.pack, plan.model.image_size, augmented=True)


class _Rest:
    """The positions that are left, counted anew whenever a worker group starts."""

    def __init__(self, run: str, num_positions: int, batch_size: int) -> None:
        self._run, self._num, self._batch_size = run, num_positions, batch_size

    def __call__(self) -> Any:
        import ray.data

        left = self._num - consumed(self._run)
        return ray.data.range(left, override_num_blocks=num_blocks(left, self._batch_size))


def consumed(run: str) -> int:
    """Samples that the newest registered checkpoint has seen."""
    from ray.train import Result

    try:
        checkpoint = Result.from_path(run).checkpoint
    except RuntimeError:  # no checkpoint yet
        return 0
    if checkpoint is None:
        return 0
    with checkpoint.as_directory() as folder:
        return int(json.loads((Path(folder) / STATE).read_text())["state"]["num_samples"])


def _validation(plan: TrainPlan) -> tuple[MakeRows, Any]:
    """The same samples at every evaluation, dealt evenly: a multiple of the micro-batches of all workers."""
    import ray
    import ray.data

    assert plan.validation is not None
    recipe = replace(plan.recipe, num_updates=None, num_epochs=1.0, batch_size=1, seed=0)
    unit = math.lcm(*range(plan.fewest_workers, plan.num_workers + 1))
    num = min(plan.recipe.num_evaluated, 2 * plan.validation.table.num_rows) // unit * unit
    if not num:
        raise ConfigError(
            f"The validation set has fewer than {unit} samples and cannot be dealt to the workers evenly."
        )
    order = make_order(recipe, plan.validation.set_sizes)[:num]
    if len(order) < num:
        num = len(order) // unit * unit
    rows = rows_of(recipe)(
        ray.put(plan.validation.table), ray.put(order), recipe, plan.pack, plan.model.image_size, augmented=False
    )
    return rows, ray.data.range(num, override_num_blocks=num_blocks(num, unit))


def make_dealer(train: MakeRows | MakeSceneRows, val: MakeRows | None, num_positions: int, recipe: Recipe) -> Any:
    """Ray Train's DataConfig for rows in a promised order: each worker gets a stream of its own share."""

    from ray.data import ExecutionOptions
    from ray.train import DataConfig

    from vigc.jobs.train.data import Deal

    class Dealer(DataConfig):
        def configure(self, datasets: Any, world_size: int, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
            shares: list[dict[str, Any]] = [{} for _ in range(world_size)]
            for name, positions in datasets.items():
                rows, batch = (train, recipe.batch_size) if name == "train" else (val, world_size)
                start = num_positions - positions.count() if name == "train" else 0
                for rank in range(world_size):
                    deal = Deal(rows, start, batch, rank, world_size)  # type: ignore[arg-type]
                    share = positions.map_batches(deal, batch_size=None, batch_format="numpy")
                    share.context.execution_options = ExecutionOptions(preserve_order=True)
                    throttle(share.context)
                    shares[rank][name] = share.iterator()
            return shares

    return Dealer()


def _samples(rows: MakeRows, num: int) -> list[Row]:
    """The first few readable samples of the validation set."""
    made = rows(np.arange(min(num, 2 * NUM_SAMPLES)))
    names = list(made)
    whole: list[Row] = [dict(zip(names, values, strict=True)) for values in zip(*made.values(), strict=True)]
    return [row for row in whole if row["prompts"]][:NUM_SAMPLES]


def _finish(plan: TrainPlan, result: ray.train.Result) -> TrainOutcome:
    """The best checkpoint's trained weights, under the names transformers uses, bound to the base they belong to."""
    from safetensors.torch import load_file

    from vigc.model.training.objective import MODEL
    from vigc.model.weights.checkpoints import About, save_trained

    best = result.get_best_checkpoint(SCORE, "min") if plan.validation is not None else result.checkpoint
    if best is None:
        raise RunError(f"{plan.out}: the run ended without a checkpoint.")
    with best.as_directory() as folder:
        trained = load_file(Path(folder) / TRAINED)
        found = json.loads((Path(folder) / STATE).read_text())
    update, val_loss = int(found["state"]["update"]), found["state"]["best_loss"] if plan.validation else None
    named = {name.removeprefix(MODEL): value for name, value in trained.items() if name.startswith(MODEL)}
    about = About(
        base=plan.model.location,
        base_sha256=found["base_sha256"],
        trainable=tuple(found["trainable"]),
        recipe=plan.recipe.name,
        step=update,
        lora=plan.recipe.trainable.lora,
        details={"val_loss": val_loss, "run": plan.request},
    )
    return TrainOutcome(
        plan.out, update, val_loss, save_trained(plan.out / WEIGHTS, named, about, dtype=plan.recipe.saved_as)
    )


def merge_run(plan: TrainPlan, outcome: TrainOutcome) -> Path:
    """The base with the trained weights put in, as a full model folder that `--model` takes."""
    from vigc.jobs.weights.run import is_merged, merge_checkpoint

    full = plan.out / MODEL_FOLDER
    if not is_merged(outcome.trained, full):
        merge_checkpoint(outcome.trained, full, base=plan.model.location, dtype=plan.recipe.saved_as)
    return full


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip(" .") if lines else type(error).__name__
