"""Makes the embedded model from nothing but rendered scenes.

    python -m vigc.model.embedded.train OUT                 one process
    torchrun --nproc-per-node 2 -m vigc.model.embedded.train OUT   a process per core

Two stages, each visible: eyes (`eyes.py`), then words (`words.py`), both from rows that are a pure function of (seed,
index). OUT can be passed as `--model`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

from vigc.model.embedded.eyes import EyesObjective
from vigc.model.embedded.files import fresh_network, save
from vigc.model.embedded.rows import Row, TextMixture, make_eyes_row, make_words_row
from vigc.model.embedded.shape import SHIPPED, SMALL, Shape
from vigc.model.embedded.words import WordsObjective
from vigc.model.network import Network, load_network
from vigc.model.prompts import PromptPack, load_pack
from vigc.model.training import Schedule, average_gradients, make_optimizer

# Seeds of the scenes; they never meet.
EYES_SEED, WORDS_SEED = 1000, 2000


@dataclass(frozen=True)
class EyesRecipe:
    """Budget and optimiser of stage one."""

    num_steps: int = 9000
    batch_size: int = 64  # scenes per step, over all processes
    learning_rate: float = 1e-3
    num_warmup: int = 150
    seed: int = 0


@dataclass(frozen=True)
class WordsRecipe:
    """Budget, mixture and optimiser of stage two."""

    num_steps: int = 5000
    batch_size: int = 16  # scenes per step, over all processes; each gives `mixture.num_texts` texts
    learning_rate: float = 1e-3
    num_warmup: int = 150
    auxiliary_weight: float = 0.5
    mixture: TextMixture = field(default_factory=TextMixture)
    seed: int = 0


Report = Callable[[int, dict[str, float]], None]


def train_eyes(network: Network, recipe: EyesRecipe, report: Report) -> None:
    """Trains the vision model in place."""
    vision = network.model.config.vision_config

    def row(index: int) -> Row:
        return make_eyes_row(
            EYES_SEED + recipe.seed, index, image_size=network.image_size, patch_size=vision.patch_size
        )

    torch.manual_seed(recipe.seed)
    _run(EyesObjective(network, autocast=torch.bfloat16), recipe, row, report)


def train_words(network: Network, pack: PromptPack, recipe: WordsRecipe, report: Report) -> None:
    """Trains everything but the vision model in place."""

    def row(index: int) -> Row:
        return make_words_row(
            WORDS_SEED + recipe.seed, index, image_size=network.image_size, pack=pack, mixture=recipe.mixture
        )

    torch.manual_seed(recipe.seed)
    objective = WordsObjective(network, auxiliary_weight=recipe.auxiliary_weight, autocast=torch.bfloat16)
    _run(objective, recipe, row, report)


def _run(objective: Any, recipe: EyesRecipe | WordsRecipe, row: Callable[[int], Row], report: Report) -> None:
    """Under an initialised torch.distributed each process takes its part of every step's rows."""
    rank, size = (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)
    model = objective.network.model
    model.set_attn_implementation("eager")  # in bf16 faster on a CPU than sdpa, whose backward is slow there
    objective.set_modes()
    trained = [p for p in objective.parameters() if p.requires_grad]
    optimizer = make_optimizer([objective], recipe.learning_rate)
    schedule = Schedule(recipe.learning_rate, recipe.learning_rate / 100, recipe.num_steps, recipe.num_warmup)
    watched: dict[str, float] = {}
    for step in range(recipe.num_steps):
        schedule.apply(optimizer, step)
        first = step * recipe.batch_size
        batch = objective.collate([row(i) for i in range(first + rank, first + recipe.batch_size, size)])
        loss, figures = objective(batch)
        optimizer.zero_grad(set_to_none=True)
        (loss / batch.num_counted).backward()  # every process counts alike, so the mean of means is the mean
        average_gradients(trained)
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        for name, value in figures.items():
            watched[name] = watched.get(name, 0.0) + value / _EVERY
        if step % _EVERY == _EVERY - 1:
            report(step + 1, watched)
            watched = {}
    model.eval().requires_grad_(False)


_EVERY = 25  # steps between reports


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--shape", choices=("shipped", "small"), default="shipped")
    parser.add_argument("--queries", type=int, help="query tokens, if not the shape's own")
    parser.add_argument("--eyes", type=Path, help="a folder of an earlier run whose eyes are taken over")
    parser.add_argument("--eyes-steps", type=int, default=EyesRecipe.num_steps)
    parser.add_argument("--words-steps", type=int, default=WordsRecipe.num_steps)
    parser.add_argument("--batch", type=int, default=WordsRecipe.batch_size, help="scenes per step of the words")
    parser.add_argument("--noise", type=float, default=TextMixture.noise, help="share of begun answers that are wrong")
    parser.add_argument("--auxiliary", type=float, default=WordsRecipe.auxiliary_weight)
    parser.add_argument("--learning-rate", type=float, default=WordsRecipe.learning_rate)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # at this size more threads do not help; more processes do
    if "WORLD_SIZE" in os.environ:
        distributed.init_process_group("gloo")
    shape: Shape = {"shipped": SHIPPED, "small": SMALL}[options.shape]
    if options.queries:
        shape = replace(shape, num_queries=options.queries)
    pack = load_pack()
    network = fresh_network(shape, pack, options.seed)
    if options.eyes:
        seeing = load_network(options.eyes, device="cpu", dtype="float32")
        network.model.vision_model.load_state_dict(seeing.model.vision_model.state_dict())
    else:
        train_eyes(network, EyesRecipe(num_steps=options.eyes_steps, seed=options.seed), _reporter("eyes"))
    words = WordsRecipe(
        num_steps=options.words_steps,
        batch_size=options.batch,
        learning_rate=options.learning_rate,
        auxiliary_weight=options.auxiliary,
        mixture=TextMixture(noise=options.noise),
        seed=options.seed,
    )
    train_words(network, pack, words, _reporter("words"))
    if not distributed.is_initialized() or distributed.get_rank() == 0:
        save(network, options.out)
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _reporter(stage: str) -> Report:
    began = time.monotonic()

    def line(step: int, figures: dict[str, float]) -> None:
        if not distributed.is_initialized() or distributed.get_rank() == 0:
            shown = "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
            sys.stdout.write(f"{stage} {step:5d}  {time.monotonic() - began:6.0f} s  {shown}\n")
            sys.stdout.flush()

    return line


if __name__ == "__main__":
    main()
