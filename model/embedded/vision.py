"""Stage one of the embedded model: eyes.

The vision transformer alone learns to say, for each patch, what lies there: category, colour, size and the object's
cell, and for the whole picture its background. The heads are thrown away afterwards. Without this stage the language
loss has to teach seeing through a whole network, and at this size it does not. Scenes are drawn as they are needed, so
no picture is seen twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import InstructBlipVisionModel

from vigc.model.embedded.shape import IMAGE_SIZE, PATCH_SIZE, pixels_to_tensor
from vigc.model.scenes.drawing import render
from vigc.model.scenes.world import BACKGROUNDS, CATEGORIES, COLOURS, GRID, SIZES, Scene, Split, make_scene
from vigc.model.training import IGNORE, Schedule, make_optimizer

PATCHES = IMAGE_SIZE // PATCH_SIZE
_EMPTY = len(CATEGORIES)


@dataclass(frozen=True)
class VisionRecipe:
    """Budget and optimiser of stage one."""

    num_steps: int = 2600
    batch_size: int = 64
    learning_rate: float = 1e-3
    seed: int = 0


class PatchHeads(nn.Module):
    """Linear read-outs of every patch token, and of the class token for the background."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = {"category": len(CATEGORIES) + 1, "colour": len(COLOURS), "size": len(SIZES), "cell": GRID * GRID}
        self.patch = nn.Linear(width, sum(self.sizes.values()))
        self.background = nn.Linear(width, len(BACKGROUNDS))

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        parts = self.patch(features[:, 1:]).split(list(self.sizes.values()), dim=-1)
        return {**dict(zip(self.sizes, parts, strict=True)), "background": self.background(features[:, 0])}


def patch_labels(scene: Scene) -> dict[str, np.ndarray]:
    """For each patch in reading order the category, colour, size and cell of the nearest object covering 30 % of it;
    colour, size and cell are ignored where there is none.
    """
    labels = {name: np.full((PATCHES, PATCHES), IGNORE, dtype=np.int64) for name in ("colour", "size", "cell")}
    labels["category"] = np.full((PATCHES, PATCHES), _EMPTY, dtype=np.int64)
    edges = np.arange(PATCHES + 1) / PATCHES
    for thing in sorted(scene.objects, key=lambda o: o.box[1] + o.box[3]):
        x, y, width, height = thing.box
        across = np.clip(np.minimum(edges[1:], x + width) - np.maximum(edges[:-1], x), 0, None) * PATCHES
        down = np.clip(np.minimum(edges[1:], y + height) - np.maximum(edges[:-1], y), 0, None) * PATCHES
        covered = np.outer(down, across) >= 0.3
        covered[int((y + height / 2) * PATCHES), int((x + width / 2) * PATCHES)] = True
        labels["category"][covered] = CATEGORIES.index(thing.category)
        labels["colour"][covered] = COLOURS.index(thing.colour)
        labels["size"][covered] = SIZES.index(thing.size)
        labels["cell"][covered] = thing.cell
    return {name: grid.reshape(-1) for name, grid in labels.items()}


def scene_stream(split: Split, seed: int, *, debiased_share: float = 0.5) -> Iterator[Scene]:
    """Endless scenes of a split, a share of them without the world's prior."""
    rng = np.random.default_rng(seed)
    index = 0
    while True:
        yield make_scene(split, seed, index, debiased=bool(rng.random() < debiased_share))
        index += 1


def vision_loss(
    model: InstructBlipVisionModel, heads: PatchHeads, scenes: list[Scene]
) -> tuple[Tensor, dict[str, float]]:
    """Summed cross-entropies over a batch of scenes, and the accuracy of each head (category: on patches that hold
    something).
    """
    pixels = torch.stack([pixels_to_tensor(np.asarray(render(s, IMAGE_SIZE))) for s in scenes])
    labels = [patch_labels(s) for s in scenes]
    target = {name: torch.from_numpy(np.stack([one[name] for one in labels])) for name in labels[0]}
    target["background"] = torch.tensor([BACKGROUNDS.index(s.background) for s in scenes])
    with torch.autocast("cpu", dtype=torch.bfloat16):  # with eager attention twice as fast as fp32 here
        out = heads(model(pixels).last_hidden_state)
    weight = torch.ones(_EMPTY + 1)
    weight[_EMPTY] = 0.2  # most patches are empty
    loss, accuracy = torch.zeros(()), {}
    for name, logits in out.items():
        flat, wanted = logits.flatten(0, -2).float(), target[name].flatten()
        loss = loss + functional.cross_entropy(
            flat, wanted, weight=weight if name == "category" else None, ignore_index=IGNORE
        )
        counted = (wanted != IGNORE) & (wanted != _EMPTY) if name == "category" else wanted != IGNORE
        accuracy[name] = float((flat.argmax(-1) == wanted)[counted].float().mean())
    return loss, accuracy


def pretrain_vision(
    model: InstructBlipVisionModel, recipe: VisionRecipe, report: Callable[[int, dict[str, float]], None]
) -> None:
    """Trains `model` in place; `report(step, figures)` is called every 50 steps."""
    torch.manual_seed(recipe.seed)
    model.set_attn_implementation("eager")
    heads = PatchHeads(model.config.hidden_size)
    optimizer = make_optimizer([model, heads], recipe.learning_rate)
    schedule = Schedule(recipe.learning_rate, recipe.learning_rate / 100, recipe.num_steps, num_warmup=150)
    scenes = scene_stream(Split.TRAIN, recipe.seed)
    model.train()
    for step in range(recipe.num_steps):
        schedule.apply(optimizer, step)
        loss, accuracy = vision_loss(model, heads, [next(scenes) for _ in range(recipe.batch_size)])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([*model.parameters(), *heads.parameters()], 1.0)
        optimizer.step()
        if step % 50 == 49:
            report(step + 1, {"loss": float(loss.detach()), **accuracy})
    model.eval()
