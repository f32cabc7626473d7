"""Sample images to try: rendered scenes that no model was trained on, with boxes around all objects in them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from typing import Any

from vigc.model.scenes import Split, make_scene, render
from vigc.platform.records import ObjectBox
from vigc.platform.schema import to_dict

SIZE = 448
SEED = 71
# Few objects, many, and many in unusual combinations, where VIG errs most.
SCENES = ((0, 2, 4, False), (1, 3, 5, False), (2, 6, 9, False), (3, 6, 12, True), (4, 6, 12, True), (5, 6, 12, True))


@dataclass(frozen=True, slots=True)
class SampleImage:
    """A sample image and its objects."""

    sample_id: str
    jpeg: bytes
    objects: list[ObjectBox]

    def about(self) -> dict[str, Any]:
        return {
            "id": self.sample_id,
            "image": f"/samples/{self.sample_id}.jpg",
            "width": SIZE,
            "height": SIZE,
            "objects": [to_dict(box) for box in self.objects],
        }


@cache
def samples() -> dict[str, SampleImage]:
    return {one.sample_id: one for one in map(_make, SCENES)}


def _make(which: tuple[int, int, int, bool]) -> SampleImage:
    index, fewest, most, debiased = which
    scene = make_scene(Split.HELD_OUT, SEED, index, debiased=debiased, min_objects=fewest, max_objects=most)
    file = io.BytesIO()
    render(scene, SIZE).save(file, "JPEG", quality=90)
    boxes = [ObjectBox(thing.category, [round(part * SIZE, 2) for part in thing.box]) for thing in scene.objects]
    return SampleImage(f"scene-{index}", file.getvalue(), boxes)
