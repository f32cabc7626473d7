"""OpenAI's chat messages, one example a line: the image is a part of the first user message, by its address.

Their service takes web addresses and data URLs; `data_url` is the image itself. Other readers of this layout
(vLLM, Axolotl, MS-Swift) take file:// addresses as well. Source: OpenAI, "Vision fine-tuning".
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from vigc.platform.exports.examples import Example, path_of
from vigc.platform.exports.images import ImageFile
from vigc.platform.images.refused import scheme_of


def record(example: Example, image_url: str | None = None) -> dict[str, Any]:
    if image_url is None:
        path_of(example)  # refuses what lies inside another file
    url = image_url or address(example.uri)
    messages: list[dict[str, Any]] = []
    for number, (question, answer) in enumerate(example.turns):
        text = {"type": "text", "text": question}
        image = {"type": "image_url", "image_url": {"url": url}}
        messages += [
            {"role": "user", "content": question if number else [image, text]},
            {"role": "assistant", "content": answer},
        ]
    return {"messages": messages}


def address(uri: str) -> str:
    """A URL also for a path of this machine."""
    return uri if scheme_of(uri) else Path(uri).absolute().as_uri()


def data_url(image_file: ImageFile) -> str:
    return f"data:{image_file.media_type};base64,{base64.b64encode(image_file.data).decode()}"
