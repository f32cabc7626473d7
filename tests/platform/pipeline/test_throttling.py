"""Ray Data's control loop is throttled, and forgets."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from vigc.platform.pipeline import throttling
from vigc.platform.pipeline.throttling import Throttle, throttle


@pytest.mark.slow
def test_every_turn_of_the_loop_pauses_and_forgets_the_blocks_that_are_done(
    shared_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray.data

    turns: list[float] = []
    before: list[int] = []
    after: list[int] = []
    pause = Throttle.on_execution_step

    def timed(self: Throttle, executor: Any) -> None:
        turns.append(time.monotonic())
        maps = [operator for operator in executor._topology if operator.name.startswith("ReadRange")]
        before.extend(len(operator._output_blocks_stats) for operator in maps)
        pause(self, executor)
        after.extend(len(operator._output_blocks_stats) for operator in maps)

    monkeypatch.setattr(Throttle, "on_execution_step", timed)
    context = ray.data.DataContext.get_current().copy()
    throttle(context)
    throttle(context)
    assert context.custom_execution_callback_classes.count(Throttle) == 1
    assert Throttle not in ray.data.DataContext.get_current().custom_execution_callback_classes
    with ray.data.DataContext.current(context):
        rows = ray.data.range(400, override_num_blocks=40).map_batches(lambda batch: batch)
    assert sum(len(batch["id"]) for batch in rows.iterator().iter_batches(batch_size=10)) == 400
    assert len(turns) > 3
    assert max(before) > 0
    assert max(after) == 0
    assert np.diff(turns).min() >= throttling.STEP_S
