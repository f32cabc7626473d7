"""The streaming graph itself, as Ray Data is told it: blocks, decode, talk, commit, with what each stage may take."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from vigc.platform.dataset.passes import Pass
from vigc.platform.pipeline.capacity import CPUS_TO_COMMIT, CPUS_TO_DECODE, CPUS_TO_LIST
from vigc.platform.pipeline.pacing import pace
from vigc.platform.pipeline.ray_session import CPUS_PER_ACTOR

if TYPE_CHECKING:
    import ray.data

    from vigc.platform.pipeline.stages import Measure, StopFlag
    from vigc.platform.pipeline.stall import StallDetector


@dataclass(frozen=True)
class Graph:
    """All that does not depend on how far a pass is; see `pipeline.run`."""

    decode: Callable[[pa.Table, int, int], pa.Table]  # images.decode_batch
    worker: type
    worker_args: tuple[Any, ...]
    image_size: int
    num_slots: int
    min_actors: int
    max_actors: int
    gpus_per_actor: float
    max_pixels: int
    measure: Measure | None  # done with rows before they are committed
    max_retries: int  # how often a block is given to another process after one died with it

    def dataset(
        self, pass_: Pass, remaining: list[tuple[int, list[int]]], stop: StopFlag, watch: StallDetector
    ) -> ray.data.Dataset:
        """What makes these blocks of these shards, one row of stages.COMMITTED for each."""
        import ray.data

        from vigc.platform.pipeline.stages import Blocks, CommitStage, DecodeStage, GenerateStage

        context = ray.data.DataContext.get_current().copy()
        context.raise_original_map_exception = True
        context.target_max_block_size = 1  # every row, which is a block of images, goes on by itself
        context.custom_execution_callback_classes = [*context.custom_execution_callback_classes, watch.callback()]
        pace(context)
        num_calls = math.ceil(4 * self.num_slots / pass_.layout.rows_per_block)
        # Different resources keep Ray from fusing decode into the actor, where it would stall the event loop.
        resources: dict[str, Any] = {"num_cpus": CPUS_PER_ACTOR}
        if self.gpus_per_actor:
            resources = {"num_gpus": self.gpus_per_actor, "num_cpus": 0}
        decode = DecodeStage(pass_.folder, pass_.layout, self.decode, self.image_size, self.max_pixels, stop)
        one: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}
        with ray.data.DataContext.current(context), warnings.catch_warnings():
            # Ray 2.60 warns of a dictionary that it makes itself out of num_cpus.
            warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
            dataset: ray.data.Dataset = (
                # One task at a time lists blocks, so that shards are finished one after the other.
                ray.data.read_datasource(
                    Blocks(remaining), concurrency=1, num_cpus=CPUS_TO_LIST, override_num_blocks=len(remaining)
                )
                .map_batches(decode, **one, num_cpus=CPUS_TO_DECODE, max_retries=self.max_retries)
                .map_batches(
                    GenerateStage,
                    fn_constructor_args=(self.worker, self.worker_args, stop, pass_.number, pass_.folder.uri),
                    **one,
                    compute=ray.data.ActorPoolStrategy(
                        min_size=self.min_actors, max_size=self.max_actors, max_concurrent_calls_per_actor=num_calls
                    ),
                    max_restarts=-1,  # over days many machines go; the tasks' limit is what ends a vain run
                    max_task_retries=self.max_retries,
                    **resources,
                )
                .map_batches(
                    CommitStage(pass_.folder, stop, self.measure),
                    **one,
                    num_cpus=CPUS_TO_COMMIT,
                    max_retries=self.max_retries,
                )
            )
        return dataset
