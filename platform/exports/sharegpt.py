"""ShareGPT with images, as LLaMA-Factory and others read it: LLaVA's turns, and the images in a list beside them.

Paths are below the folder that the images came from (LLaMA-Factory: `media_dir`), `from` and `value` are its default
names. Source: hiyouga/LLaMA-Factory, data/README.md.
"""

from __future__ import annotations

from typing import Any

from vigc.platform.exports import llava
from vigc.platform.exports.examples import Example, path_of


def record(example: Example) -> dict[str, Any]:
    return {"id": example.id, "conversations": llava.turns(example), "images": [path_of(example)]}
