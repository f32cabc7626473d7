"""The little world that scenes are drawn from: places, things, colours, and a prior that tempts.

Things keep company as they do in photographs: boats lie on beaches, cars stand beside trees, and trees are mostly
green. A language model that learns this prior names what is usually there instead of what is there, which is how
hallucination begins; `debiased` scenes break the prior and show it. Every scene is a pure function of (split, seed,
index), and the splits share no seed, so held-out scenes were never trained on.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

VERSION = 2  # of the world: scenes of another version look different, or are told differently
CATEGORIES = ("ball", "boat", "car", "chair", "clock", "cup", "fish", "flower", "house", "kite", "tree", "umbrella")
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "black", "white")
SIZES = ("small", "large")
BACKGROUNDS = ("beach", "park", "street", "room", "snowy field", "desert")
GRID = 4  # objects lie in distinct cells of a 4 x 4 layout, away from the cell's middle by a jitter
MAX_OBJECTS = 12
EASY, HARD = (1, 5), (6, 12)  # fewest and most objects

# How much likelier than 1 a category is on a background.
AT_HOME = {
    "beach": {"boat": 6, "umbrella": 5, "ball": 4, "fish": 4, "kite": 3},
    "park": {"tree": 6, "flower": 5, "kite": 4, "ball": 3, "chair": 2},
    "street": {"car": 7, "house": 5, "tree": 3, "clock": 2, "umbrella": 2},
    "room": {"chair": 6, "cup": 6, "clock": 5, "flower": 3, "fish": 2},
    "snowy field": {"house": 5, "tree": 5, "car": 2, "umbrella": 2, "ball": 2},
    "desert": {"car": 4, "kite": 4, "house": 3, "tree": 2, "boat": 1},
}
# Seeing the first makes the second likely.
COMPANION = {
    "car": "tree",
    "house": "flower",
    "chair": "cup",
    "boat": "umbrella",
    "kite": "ball",
    "cup": "clock",
    "umbrella": "fish",
}
USUAL_COLOUR = {
    "tree": "green",
    "car": "red",
    "boat": "white",
    "chair": "black",
    "cup": "blue",
    "fish": "orange",
    "flower": "purple",
    "house": "white",
    "ball": "yellow",
    "kite": "red",
    "clock": "black",
    "umbrella": "blue",
}


class Split(StrEnum):
    """Seeds of different splits never meet."""

    TRAIN = "train"
    HELD_OUT = "held-out"


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One thing in a scene; the box is x, y, width, height as shares of the image's side."""

    category: str
    colour: str
    size: str
    cell: int  # 0..15 in reading order
    box: tuple[float, float, float, float]

    @property
    def row(self) -> int:
        return self.cell // GRID

    @property
    def column(self) -> int:
        return self.cell % GRID


@dataclass(frozen=True, slots=True)
class Scene:
    """A background and its objects in reading order; `seed` fixes the drawing's noise and the wording."""

    seed: str
    background: str
    objects: tuple[SceneObject, ...]

    def count(self, category: str) -> int:
        return sum(o.category == category for o in self.objects)


def make_scene(
    split: Split, seed: int, index: int, *, debiased: bool = False, min_objects: int = 1, max_objects: int = 5
) -> Scene:
    """The scene number `index` of a seed: `min_objects` to `max_objects` (at most 12) objects, uniform categories and
    colours when `debiased`.
    """
    if not 1 <= min_objects <= max_objects <= MAX_OBJECTS:
        raise ValueError(
            f"A scene holds 1 to {MAX_OBJECTS} objects, fewest first, not {min_objects} to {max_objects} of them."
        )
    name = f"{split.value}/{'debiased' if debiased else 'biased'}/{min_objects}-{max_objects}/{seed}/{index}"
    rng = random.Random(name)
    background = rng.choice(BACKGROUNDS)
    cells = sorted(rng.sample(range(GRID * GRID), rng.randint(min_objects, max_objects)))
    categories: list[str] = []
    for _ in cells:
        categories.append(_category(rng, background, categories, debiased))
    rng.shuffle(categories)
    objects = tuple(_place(rng, category, cell, debiased) for category, cell in zip(categories, cells, strict=True))
    return Scene(seed=name, background=background, objects=objects)


def _category(rng: random.Random, background: str, so_far: list[str], debiased: bool) -> str:
    if debiased:
        return rng.choice(CATEGORIES)
    tempted = [COMPANION[c] for c in so_far if c in COMPANION and COMPANION[c] not in so_far]
    if tempted and rng.random() < 0.55:
        return rng.choice(tempted)
    weights = [1.0 + 2.0 * AT_HOME[background].get(c, 0) for c in CATEGORIES]
    return rng.choices(CATEGORIES, weights)[0]


def _place(rng: random.Random, category: str, cell: int, debiased: bool) -> SceneObject:
    usual = USUAL_COLOUR[category]
    colour = usual if not debiased and rng.random() < 0.45 else rng.choice(COLOURS)
    size = rng.choice(SIZES)
    side = rng.uniform(0.105, 0.135) if size == "small" else rng.uniform(0.20, 0.26)
    width, height = side * rng.uniform(0.92, 1.08), side * rng.uniform(0.92, 1.08)
    # Centres stay in their cell; boxes may reach into a neighbour's, so near things hide parts of far ones.
    x = (cell % GRID + 0.5) / GRID + rng.uniform(-0.05, 0.05)
    y = (cell // GRID + 0.5) / GRID + rng.uniform(-0.05, 0.05)
    x = min(max(x, width / 2 + 0.005), 0.995 - width / 2)
    y = min(max(y, height / 2 + 0.005), 0.995 - height / 2)
    return SceneObject(category, colour, size, cell, (x - width / 2, y - height / 2, width, height))
