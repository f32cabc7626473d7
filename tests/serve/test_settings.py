"""What is chosen where a setting leaves it open."""

from __future__ import annotations

import pytest

from vigc.serve import settings as module
from vigc.serve.settings import ServeSettings


@pytest.mark.parametrize(
    ("cores", "given", "replicas", "threads"),
    [
        (1, {}, (1, 1), 1),
        (2, {}, (2, 2), 1),
        (16, {}, (4, 4), 3),
        (16, {"replicas": 1}, (1, 1), 15),
        (16, {"replicas": "1:8"}, (1, 8), 1),
        (16, {"model": "Salesforce/instructblip-vicuna-7b"}, (1, 1), 15),
        (16, {"gpus_per_replica": 1}, (1, 1), 15),
        (16, {"device": "cuda"}, (1, 1), 15),
        (16, {"threads": 2}, (4, 4), 2),
    ],
)
def test_replicas_and_threads_share_the_cores_out(cores, given, replicas, threads, monkeypatch):
    monkeypatch.setattr(module, "num_cores", lambda: cores)
    settings = ServeSettings.model_validate(given)
    assert (settings.replica_range, settings.chosen_threads) == (replicas, threads)
