"""LLaVA's instruction format: a JSON list of examples, each an image and the turns spoken about it.

`image` is the path below the folder that the images came from, which is what LLaVA's trainer calls `--image_folder`.
Source: haotian-liu/LLaVA, docs/Finetune_Custom_Data.md.
"""

from __future__ import annotations

from typing import Any

from vigc.platform.exports.examples import IMAGE_TOKEN, Example, path_of

SPEAKERS = ("human", "gpt")


def record(example: Example) -> dict[str, Any]:
    return {"id": example.id, "image": path_of(example), "conversations": turns(example)}


def turns(example: Example) -> list[dict[str, str]]:
    """The image token stands once, before the first question."""
    human, gpt = SPEAKERS
    said: list[dict[str, str]] = []
    for number, (question, answer) in enumerate(example.turns):
        marked = question if number else f"{IMAGE_TOKEN}\n{question}"
        said += [{"from": human, "value": marked}, {"from": gpt, "value": answer}]
    return said
