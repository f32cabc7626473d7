"""A Ray of our own is started patiently."""

from __future__ import annotations

import pytest

from vigc.platform.pipeline.ray_session import NUM_STARTS, init_ray

LATE = "The current node timed out during startup. This could happen because\nsome of the raylet failed to startup."


@pytest.fixture
def errors(monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[str]]:
    """The errors that starts of Ray end with, and what happened to it."""
    import ray

    errors: list[str] = []
    events: list[str] = []

    def init(**options: object) -> None:
        events.append("start")
        if errors:
            raise RuntimeError(errors.pop(0))

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: events.append("end"))
    return errors, events


def test_processes_that_come_up_late_are_cleared_away_and_started_again(errors: tuple[list[str], list[str]]) -> None:
    errors[0].append(LATE)
    init_ray(address="local")
    assert errors[1] == ["start", "end", "start"]


def test_ray_is_given_up_in_the_end(errors: tuple[list[str], list[str]]) -> None:
    errors[0].extend([LATE] * NUM_STARTS)
    with pytest.raises(RuntimeError, match="timed out"):
        init_ray(address="local")
    assert errors[1].count("start") == NUM_STARTS


def test_any_other_fault_is_told_at_once(errors: tuple[list[str], list[str]]) -> None:
    errors[0].append("no such address")
    with pytest.raises(RuntimeError, match="no such address"):
        init_ray(address="nowhere")
    assert errors[1] == ["start"]
