"""The streaming graph for Ray Data: list blocks, decode, generate, commit, and what each stage may take."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from vigc.platform.dataset.passes import Pass
from vigc.platform.images.decode import MAX_PIXELS, decode_batch
from vigc.platform.pipeline.capacity import CPUS_TO_COMMIT, CPUS_TO_DECODE, CPUS_TO_LIST, Need
from vigc.platform.pipeline.ray_session import CPUS_PER_ACTOR
from vigc.platform.pipeline.throttling import throttle
from vigc.platform.records import ConfigError

if TYPE_CHECKING:
    import ray.data

    from vigc.platform.pipeline.commit_stage import Measure
    from vigc.platform.pipeline.heartbeat import Heartbeat

# How often Ray gives a block to another process after one died with it; its own answer is: for ever. An image that
# kills processes is caught below this (isolation.py), so these deaths are of machines.
MAX_RETRIES = 10
IMAGES_PER_SLOT = 4  # that are begun, so that no slot waits for one


@dataclass(frozen=True, kw_only=True)
class Graph:
    """What makes rows of a pass's images; nothing of it depends on how far the pass is.

    `worker` is a class, built once per actor with `worker_args`, in a process of its own. Its
    `async def __call__(self, batch: pa.Table)` is an async generator that yields tables of schema.ROW, one row for each
    row of the batch, in its order; the batch's columns are those of decode.DECODED. Many calls are under way at once,
    all on the event loop of that process. A method `load() -> metrics.EngineLoad`, where there is one, tells how busy
    it is.
    """

    worker: type
    worker_args: tuple[Any, ...] = ()
    image_size: int  # side of the square pixels that the worker gets
    num_slots: int  # conversations that the worker holds at once; it is kept supplied with four times as many images
    min_actors: int = 1  # between these, Ray adds and removes actors by the work there is
    max_actors: int = 1
    gpus_per_actor: float = 0
    max_pixels: int = MAX_PIXELS  # larger images are not decoded
    decode: Callable[[pa.Table, int, int], pa.Table] = decode_batch  # records, image_size, max_pixels to DECODED
    # On CPU workers, before rows are committed: rows of schema.ROW to the same with more known of them, the same
    # however often it is called.
    measure: Measure | None = None
    max_retries: int = MAX_RETRIES

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        least = min(self.min_actors, self.image_size, self.num_slots)
        if least < 1 or self.max_actors < self.min_actors:
            raise ConfigError(
                f"actors ({self.min_actors} to {self.max_actors}), num_slots ({self.num_slots}), image_size "
                f"({self.image_size}): 1 is the least, and the most actors are not fewer than the least."
            )

    @property
    def need(self) -> Need:
        """What the graph needs of the cluster."""
        return Need(self.min_actors, self.gpus_per_actor)

    def dataset(self, pass_: Pass, remaining: list[tuple[int, list[int]]], heartbeat: Heartbeat) -> ray.data.Dataset:
        """What makes these blocks of these shards: one row for each, to be read by `committed_files`."""
        import ray.data

        from vigc.platform.pipeline.commit_stage import CommitStage
        from vigc.platform.pipeline.decode_stage import DecodeStage, RemainingBlocks
        from vigc.platform.pipeline.generate_stage import GenerateStage

        context = ray.data.DataContext.get_current().copy()
        context.raise_original_map_exception = True
        context.target_max_block_size = 1  # every row, which is a block of images, goes on by itself
        callbacks = [*context.custom_execution_callback_classes, heartbeat.stall_callback(self.need)]
        context.custom_execution_callback_classes = callbacks
        throttle(context)
        num_calls = math.ceil(IMAGES_PER_SLOT * self.num_slots / pass_.layout.rows_per_block)
        # Different resources keep Ray from fusing decode into the actor, where it would stall the event loop.
        resources: dict[str, Any] = {"num_cpus": CPUS_PER_ACTOR}
        if self.gpus_per_actor:
            resources = {"num_gpus": self.gpus_per_actor, "num_cpus": 0}
        decode = DecodeStage(pass_.folder, pass_.layout, self.decode, self.image_size, self.max_pixels, heartbeat)
        one: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}
        with ray.data.DataContext.current(context), warnings.catch_warnings():
            # Ray 2.60 warns of a dictionary that it makes itself out of num_cpus.
            warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
            dataset: ray.data.Dataset = (
                # One task at a time lists blocks, so that shards are finished one after the other.
                ray.data.read_datasource(
                    RemainingBlocks(remaining), concurrency=1, num_cpus=CPUS_TO_LIST, override_num_blocks=len(remaining)
                )
                .map_batches(decode, **one, num_cpus=CPUS_TO_DECODE, max_retries=self.max_retries)
                .map_batches(
                    GenerateStage,
                    fn_constructor_args=(self.worker, self.worker_args, heartbeat, pass_.number, pass_.folder.uri),
                    **one,
                    compute=ray.data.ActorPoolStrategy(
                        min_size=self.min_actors, max_size=self.max_actors, max_concurrent_calls_per_actor=num_calls
                    ),
                    max_restarts=-1,  # over days many machines go; the tasks' limit is what ends a vain run
                    max_task_retries=self.max_retries,
                    **resources,
                )
                .map_batches(
                    CommitStage(pass_.folder, heartbeat, self.measure),
                    **one,
                    num_cpus=CPUS_TO_COMMIT,
                    max_retries=self.max_retries,
                )
            )
        return dataset
