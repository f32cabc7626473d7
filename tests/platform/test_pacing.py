"""A consumer that is slower than the tasks does not make Ray Data's control loop spin."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from vigc.platform import pacing
from vigc.platform.pacing import Paced, pace


@pytest.mark.slow
def test_the_loop_turns_at_its_pace_while_rows_wait_to_be_taken(
    shared_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray.data

    turns: list[float] = []
    monkeypatch.setattr(
        Paced, "on_execution_step", lambda self, executor: (turns.append(0.0), time.sleep(pacing.STEP_S))
    )
    context = ray.data.DataContext.get_current().copy()
    pace(context)
    pace(context)
    assert context.custom_execution_callback_classes.count(Paced) == 1
    assert Paced not in ray.data.DataContext.get_current().custom_execution_callback_classes
    with ray.data.DataContext.current(context):
        rows = ray.data.range(4000, override_num_blocks=40).map_batches(_heavy, batch_size=100)
    taken = rows.iterator().iter_batches(batch_size=100, prefetch_batches=1)
    batches = iter(taken)
    next(batches)
    turns.clear()
    time.sleep(3)
    assert 0 < len(turns) <= 3 / pacing.STEP_S
    assert sum(len(batch["id"]) for batch in batches) == 3900


def _heavy(batch: dict[str, Any]) -> dict[str, Any]:
    return {"id": batch["id"], "ballast": np.zeros((len(batch["id"]), 20_000), np.uint8)}
