"""`transformers serve`, for models of images where torchvision is not installed.

Processors of models that watch videos, too (Qwen-VL, SmolVLM and others), are loaded whole, and their part for videos
needs torchvision, while images are read without it. Where it is missing that part is an empty one. Run as a script with
the arguments of `transformers serve`; nothing here imports from vigc.
"""

from __future__ import annotations

import sys
from typing import Any


def main() -> None:
    from transformers.cli.transformers import app
    from transformers.utils.import_utils import is_torchvision_available

    if not is_torchvision_available():
        leave_videos_out()
    app(args=["serve", *sys.argv[1:]])


def leave_videos_out() -> None:
    from transformers import processing_utils
    from transformers.models.auto.video_processing_auto import AutoVideoProcessor
    from transformers.video_processing_utils import BaseVideoProcessor, VideoProcessorMixin

    def empty(*_: Any, **__: Any) -> BaseVideoProcessor:
        return BaseVideoProcessor()

    loading: Any = AutoVideoProcessor
    loading.from_pretrained = empty
    checked: Any = processing_utils.transformers_module  # where that part's class is looked for, and not found either
    checked.VideoProcessorMixin = VideoProcessorMixin


if __name__ == "__main__":
    main()
