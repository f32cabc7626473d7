"""Scenes: rendered images with exact ground truth, written as the files anybody's images are.

`write_scenes` leaves OUT/images/*.jpg and *.png with OUT/annotations.json in COCO's form, so they come in by the same
door as photographs. Only this package and the training of the embedded model know the world's word lists.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from vigc.model.scenes.drawing import render
from vigc.model.scenes.world import CATEGORIES, VERSION, Scene, Split, make_scene
from vigc.platform.records import RENDERED_SCENES


def write_scenes(
    out: Path,
    *,
    num: int,
    seed: int,
    debiased: bool = False,
    min_objects: int = 1,
    max_objects: int = 5,
    size: int = 320,
    split: Split = Split.HELD_OUT,
) -> None:
    """Writes `num` scenes of size x size pixels, every fifth as PNG; annotations.json comes last, so its presence means
    that all is there.
    """
    images = out / "images"
    images.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for index in range(num):
        scene = make_scene(split, seed, index, debiased=debiased, min_objects=min_objects, max_objects=max_objects)
        name = f"{index:06d}.{'png' if index % 5 == 4 else 'jpg'}"
        render(scene, size).save(images / name, quality=92)
        entries.append(
            {
                "id": index,
                "file_name": name,
                "width": size,
                "height": size,
                "background": scene.background,
                "scene": scene.seed,
            }
        )
        boxes.extend(_annotation(len(boxes) + k, index, scene, k, size) for k in range(len(scene.objects)))
    document = {
        "info": {
            "description": RENDERED_SCENES,
            "seed": seed,
            "split": split.value,
            "num": num,
            "debiased": debiased,
            "min_objects": min_objects,
            "max_objects": max_objects,
            "size": size,
        },
        "images": entries,
        "annotations": boxes,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CATEGORIES)],
    }
    unfinished = out / "annotations.json.part"
    unfinished.write_text(json.dumps(document), encoding="utf-8")
    os.replace(unfinished, out / "annotations.json")


def _annotation(number: int, image_id: int, scene: Scene, index: int, size: int) -> dict[str, Any]:
    thing = scene.objects[index]
    bbox = [round(v * size, 2) for v in thing.box]
    return {
        "id": number + 1,
        "image_id": image_id,
        "category_id": CATEGORIES.index(thing.category) + 1,
        "bbox": bbox,
        "area": round(bbox[2] * bbox[3], 2),
        "iscrowd": 0,
        "attributes": {"colour": thing.colour, "size": thing.size, "cell": thing.cell},
    }


__all__ = ["CATEGORIES", "VERSION", "Scene", "Split", "make_scene", "render", "write_scenes"]
