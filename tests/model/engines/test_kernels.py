"""Kernels for GPUs, computed by Triton's interpreter. It is in the environment that `make vllm` makes."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_they_compute_what_torch_computes_in_float64(vllm_python: str) -> None:
    done = subprocess.run(
        [vllm_python, "-c", "import gpu_check; gpu_check.kernels_agree('cpu')"],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'benchmarks'}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    names = re.findall(r"(?:keys: )?([a-z' -]+): differs by", done.stdout)
    of_heads = ["turned", "keys", "values", "a step's keys", "a step's values", "what a step sees"]
    assert names == of_heads * 3 + ["gated", "added", "normed", *["its log-probability"] * 2]
