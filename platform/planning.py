"""What a run will take: arithmetic from a rate to GPU-hours, time, money and a cluster's shape.

Actors share nothing, so a cluster's rate is taken to be the sum of its GPUs'. A rate is a range, and so is all that
follows from it; the money for a deadline is reckoned from the range's slow end. Prices and GPUs come from a YAML file,
which the user edits.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from vigc.platform.records import ConfigError, InputError, TokenUsage

SHIPPED_PRICES = Path(__file__).with_name("prices.yaml")
MIN_POINTS = 3
MAX_WINDOWS = 8
BYTES_PER_CONVERSATION = 1_300  # of a committed row, for want of a measurement


@dataclass(frozen=True, slots=True)
class Rate:
    """Images a second of one GPU, or of one machine without any: the likeliest, and the range it lies in."""

    middle: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.middle <= self.high:
            raise ConfigError(f"A rate of {self.low:g} to {self.high:g} images a second cannot be.")

    def times(self, low: float, high: float) -> Rate:
        """On something that is between `low` and `high` times as fast; the likeliest is the slow end."""
        return Rate(self.middle * low, self.low * low, self.high * high)

    @property
    def spread(self) -> float:
        """Half of the range, as a share of the middle."""
        return (self.high - self.low) / 2 / self.middle


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    tflops: float
    tb_per_s: float


@dataclass(frozen=True, slots=True)
class Machine:
    """A type of machine that can be had."""

    name: str
    cloud: str
    gpu: Gpu
    gpus: int
    per_hour: float  # in the table's currency


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """What a million tokens cost, read and written. Providers that charge less for what they have cached cost less."""

    input: float
    output: float

    def of(self, usage: TokenUsage) -> float:
        return self.of_mean(usage.num_prompt, usage.num_completion)

    def of_mean(self, num_prompt: float, num_completion: float) -> float:
        """Of numbers that may be means."""
        return (self.input * num_prompt + self.output * num_completion) / 1e6


@dataclass(frozen=True, slots=True)
class Prices:
    checked: date
    currency: str
    startup_minutes: float
    gpus: Mapping[str, Gpu]
    machines: Sequence[Machine]
    models: Mapping[str, TokenPrice]  # by their names at their endpoints


@dataclass(frozen=True, slots=True)
class MachinePlan:
    """So many machines of one type, and what a run takes on them; each pair is (likeliest, at the slow end)."""

    machine: Machine
    num_machines: int
    gpu_hours: tuple[float, float]  # at work; starting up is in `hours` and `money`
    hours: tuple[float, float]
    money: tuple[float, float]


def rate_of(points: Sequence[tuple[float, int]], skip: int = 0) -> Rate:
    """The rate of a run that was watched.

    Args:
        points: when (in seconds) how many images were done, in order.
        skip: images that are not counted, because they were made while the engine was filling up.
    Raises:
        InputError: too little was done for a rate.
    """
    counted = [point for point in points if point[1] >= skip] or list(points[-1:])
    if len(counted) < MIN_POINTS or counted[-1][0] <= counted[0][0]:
        done = points[-1][1] if points else 0
        raise InputError(f"Only {done} images were done, too few for a rate. Give the probe more images.")
    (began, first), (ended, last) = counted[0], counted[-1]
    middle = (last - first) / (ended - began)
    parts = _windows(counted)
    error = 2 * statistics.stdev(parts) / math.sqrt(len(parts)) if len(parts) > 1 else middle / 2
    return Rate(middle, max(middle - error, middle / 10), middle + error)


def _windows(points: Sequence[tuple[float, int]]) -> list[float]:
    """The rates of parts of about equal length, each from one point to another."""
    began, ended = points[0][0], points[-1][0]
    num = min(MAX_WINDOWS, len(points) // 2)
    rates, left = [], points[0]
    for number in range(1, num + 1):
        until = began + (ended - began) * number / num
        right = next(point for point in points if point[0] >= until - 1e-9)
        if right[0] > left[0]:
            rates.append((right[1] - left[1]) / (right[0] - left[0]))
            left = right
    return rates


def carried_over(rate: Rate, measured_on: Gpu, to: Gpu) -> Rate:
    """The rate of another GPU: arithmetic bounds part of the work, memory the rest; it lies between both ratios."""
    ratios = to.tflops / measured_on.tflops, to.tb_per_s / measured_on.tb_per_s
    return rate.times(min(ratios), max(ratios))


def shape_of(num_images: int, rate: Rate, machine: Machine, num_machines: int, startup_minutes: float) -> MachinePlan:
    """
    Args:
        rate: of one of the machine's GPUs.
    """
    gpu_hours = num_images / rate.middle / 3600, num_images / rate.low / 3600
    hours = [work / (machine.gpus * num_machines) + startup_minutes / 60 for work in gpu_hours]
    money = [each * num_machines * machine.per_hour for each in hours]
    return MachinePlan(machine, num_machines, gpu_hours, (hours[0], hours[1]), (money[0], money[1]))


def for_deadline(
    num_images: int, rate: Rate, machine: Machine, deadline_hours: float, startup_minutes: float
) -> MachinePlan | None:
    """The fewest machines that are done in time at the slow end; None where starting up alone takes as long."""
    working_hours = deadline_hours - startup_minutes / 60
    if working_hours <= 0:
        return None
    # A hair less, so that a quotient that is a whole number but for rounding does not take one more machine.
    needed = num_images / rate.low / 3600 / machine.gpus / working_hours
    return shape_of(num_images, rate, machine, max(1, math.ceil(needed - 1e-9)), startup_minutes)


def cheapest(shapes: Sequence[MachinePlan]) -> MachinePlan | None:
    """By the money at the slow end; of equals, the one with fewer machines."""
    return min(shapes, key=lambda shape: (shape.money[1], shape.num_machines), default=None)


def load_prices(file: Path | None = None) -> Prices:
    """
    Raises:
        ConfigError: the file cannot be read, or lacks or misspells something; says what.
    """
    path = file or SHIPPED_PRICES
    try:
        table: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        gpus = {name: Gpu(name, **_numbers(values)) for name, values in table["gpus"].items()}
        machines = [
            Machine(name, str(values["cloud"]), gpus[values["gpu"]], int(values["gpus"]), float(values["per_hour"]))
            for name, values in table["machines"].items()
        ]
        models = {
            str(name): TokenPrice(float(values["input"]), float(values["output"]))
            for name, values in table.get("models", {}).items()
        }
        startup_minutes = float(table["startup_minutes"])
        prices = Prices(table["checked"], str(table["currency"]), startup_minutes, gpus, machines, models)
    except OSError as error:
        raise ConfigError(f"{path}: the prices cannot be read ({error.strerror}).") from error
    except KeyError as error:
        raise ConfigError(
            f"{path}: {error} is missing, or named but not described. Compare {SHIPPED_PRICES}."
        ) from error
    except (TypeError, ValueError, AttributeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: not a table of prices ({reason}). Compare {SHIPPED_PRICES}.") from error
    if not isinstance(prices.checked, date):
        raise ConfigError(f"{path}: checked is {prices.checked!r}, which is no date like 2026-11-26.")
    wrong = [m.name for m in machines if m.gpus < 1 or m.per_hour < 0]
    wrong += [name for name, price in models.items() if min(price.input, price.output) < 0]
    wrong += [gpu.name for gpu in gpus.values() if min(gpu.tflops, gpu.tb_per_s) <= 0]
    if wrong:
        raise ConfigError(f"{path}: {wrong[0]} has a number that cannot be.")
    return prices


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    known = [field.name for field in fields(Gpu)]
    if unknown := [name for name in values if name not in known]:
        raise ValueError(f"unknown key {unknown[0]!r}")
    return {name: float(value) for name, value in values.items()}
