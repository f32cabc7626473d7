"""The arithmetic of a plan, by hand on small numbers and by what must hold for all."""

from __future__ import annotations

import math
import random

import pytest

from vigc.platform.planning import (
    SHIPPED_PRICES,
    Gpu,
    Machine,
    Rate,
    carried_over,
    cheapest,
    for_deadline,
    load_prices,
    rate_of,
    shape_of,
)
from vigc.platform.records import ConfigError, InputError

GPU = Gpu("a100-80", 312, 2.0)
EIGHT = Machine("eight", "here", GPU, 8, 24.0)
ONE = Machine("one", "here", GPU, 1, 3.5)
SURE = Rate(10, 10, 10)


def test_the_cost_of_a_run_by_hand():
    """1.8 million images at 10/s are 50 GPU-hours; on 8 GPUs 6.25 h, and half an hour to start."""
    shape = shape_of(1_800_000, SURE, EIGHT, 1, startup_minutes=30)
    assert shape.gpu_hours == (50, 50)
    assert shape.hours == (6.75, 6.75)
    assert shape.money == (162, 162)
    two = shape_of(1_800_000, SURE, EIGHT, 2, startup_minutes=30)
    assert (two.hours[0], two.money[0]) == (3.625, 174)  # the start is paid twice


def test_the_slow_end_of_a_rate_is_the_dear_one():
    shape = shape_of(1_800_000, Rate(10, 5, 12), EIGHT, 1, startup_minutes=0)
    assert shape.gpu_hours == (50, 100)
    assert shape.money == (150, 300)


def test_a_deadline_takes_the_fewest_machines_that_are_done_in_time_at_the_slow_end():
    """50 GPU-hours at 10/s, 100 at 5/s; of 3 hours, half an hour is for starting."""
    shape = for_deadline(1_800_000, Rate(10, 5, 12), EIGHT, 3, startup_minutes=30)
    assert (shape.num_machines, shape.hours) == (5, (1.75, 3.0))
    assert for_deadline(1_800_000, SURE, EIGHT, 0.5, startup_minutes=30) is None


@pytest.mark.parametrize("seed", range(20))
def test_one_machine_fewer_would_be_late(seed):
    rng = random.Random(seed)
    low = rng.uniform(0.1, 30)
    rate, images = Rate(low * 1.2, low, low * 1.5), rng.randrange(1, 5_000_000)
    deadline, startup = rng.uniform(1, 100), rng.uniform(0, 30)
    shape = for_deadline(images, rate, EIGHT, deadline, startup)
    assert shape.hours[1] <= deadline * (1 + 1e-6)
    if shape.num_machines > 1:
        assert shape_of(images, rate, EIGHT, shape.num_machines - 1, startup).hours[1] > deadline


def test_the_cheapest_shape_is_that_of_the_least_money():
    shapes = [for_deadline(1_800_000, SURE, machine, 10, 0) for machine in (EIGHT, ONE)]
    assert [shape.num_machines for shape in shapes] == [1, 5]
    assert [shape.money[1] for shape in shapes] == [150, 175]
    assert cheapest(shapes).machine is EIGHT
    assert cheapest([]) is None


def test_a_rate_on_another_gpu_lies_between_arithmetic_and_memory():
    there = carried_over(Rate(10, 8, 12), GPU, Gpu("h100", 936, 3.0))
    assert (there.middle, there.low, there.high) == pytest.approx((15, 12, 36))
    assert carried_over(SURE, GPU, GPU) == SURE


def test_a_steady_run_has_a_narrow_range():
    rate = rate_of([(100.0 + t, 7 * t) for t in range(60)])
    assert (rate.middle, rate.low, rate.high) == pytest.approx((7, 7, 7))


def test_an_unsteady_run_has_a_range_that_holds_its_parts_mean():
    rng = random.Random(1)
    points, done = [], 0
    for second in range(81):
        points.append((float(second), done))
        done += rng.choice((2, 4, 12))
    rate = rate_of(points)
    assert rate.middle == points[-1][1] / 80
    assert 0.05 < rate.spread < 0.6
    assert rate.low < 6 < rate.high


def test_what_came_while_the_engine_filled_up_is_not_counted():
    slow_start = [(0.0, 0), (50.0, 10), *((50.0 + t, 10 + 5 * t) for t in range(1, 20))]
    assert rate_of(slow_start, skip=10).middle == pytest.approx(5)
    assert rate_of(slow_start).middle < 2


@pytest.mark.parametrize("points", [[], [(1.0, 5)], [(1.0, 5), (2.0, 9)]])
def test_too_little_is_no_rate(points):
    with pytest.raises(InputError, match="too few for a rate"):
        rate_of(points)


def test_the_shipped_prices_are_dated_and_whole():
    prices = load_prices()
    assert prices.currency == "USD"
    assert {machine.cloud for machine in prices.machines} == {"aws", "gcp"}
    assert all(math.isfinite(machine.per_hour) and machine.per_hour > 0 for machine in prices.machines)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("gpu: l4,", "gpu: l5,", "'l5' is missing, or named but not described"),
        ("checked: 2026-11-26", "checked: lately", "checked is 'lately', which is no date"),
        ("per_hour: 21.96", "per_hour: cheap", "not a table of prices .*'cheap'"),
        ("per_hour: 21.96", "per_hour: -1", "p4d.24xlarge has a number that cannot be"),
        ("startup_minutes: 10", "", "'startup_minutes' is missing"),
        ("tb_per_s: 0.3 }", "bandwidth: 0.3 }", "unknown key 'bandwidth'"),
        ("machines:", "machines: [", "not a table of prices"),
    ],
)
def test_a_mistake_in_the_prices_is_named(old, new, complaint, tmp_path):
    text = SHIPPED_PRICES.read_text()
    assert old in text
    file = tmp_path / "prices.yaml"
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=complaint):
        load_prices(file)
