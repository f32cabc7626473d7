"""Benchmarks, one file each: what they ask of a model, read from the published files, and how its replies are scored.

A benchmark is a module with `read(files, options)`, `score(answered, options)` and HEADLINE, the metric that sums it
up; one whose replies are judged also has `cases`.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from vigc.platform.records import ConfigError

BENCHMARKS = {
    "okvqa": "okvqa",
    "vqav2": "vqav2",
    "aokvqa": "aokvqa",
    "mmbench": "mmbench",
    "llava": "llava_eval",
    "pope": "pope",
    "chair": "chair",
    "questions": "questions",
}


def benchmark(name: str) -> ModuleType:
    """Raises ConfigError for an unknown one."""
    if name not in BENCHMARKS:
        raise ConfigError(f"There is no benchmark {name!r}; use {', '.join(BENCHMARKS)}.")
    return import_module(f"vigc.platform.evaluation.{BENCHMARKS[name]}")
