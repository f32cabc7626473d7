"""Makes the embedded model from nothing but rendered scenes.

    python -m vigc.model.embedded.train OUT                 one process
    torchrun --nproc-per-node 2 -m vigc.model.embedded.train OUT   a process per core

Two stages, each visible: eyes (`vision.py`), then words (`language.py`). OUT can be passed as `--model`. `--start` goes
on from such a folder with stage two alone.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import distributed

from vigc.model.embedded.language import SPECIAL, LanguageRecipe, make_tokenizer, save, texts_of, train_language
from vigc.model.embedded.shape import CLIP_MEAN, CLIP_STD, make_config, make_model
from vigc.model.embedded.vision import VisionRecipe, pretrain_vision, scene_stream
from vigc.model.network import Network, load_network
from vigc.model.prompts import PromptPack, load_pack
from vigc.model.scenes.world import Split

NUM_TOKENIZER_SCENES = 4000
# Seeds of the scene streams; with the process's rank added they never meet.
TOKENIZER_SEED, VISION_SEED, LANGUAGE_SEED = 99, 0, 200

Report = Callable[[int, dict[str, float]], None]


def train(
    out: Path,
    vision: VisionRecipe,
    language: LanguageRecipe,
    report: Callable[[str], Report],
    *,
    start: Path | None = None,
) -> None:
    """Both stages; every process of a torch.distributed group calls this, and the first one writes OUT."""
    pack = load_pack()
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    network = load_network(start, device="cpu", dtype="float32") if start else _with_eyes(pack, vision, report)
    network.model.float()
    train_language(network, pack, scene_stream(Split.TRAIN, LANGUAGE_SEED + rank), language, report("words"))
    if rank == 0:
        save(network, out)


def _with_eyes(pack: PromptPack, recipe: VisionRecipe, report: Callable[[str], Report]) -> Network:
    """A fresh network whose vision model can see; every process does the same, which is cheaper than waiting."""
    tokenizer = make_tokenizer(_tokenizer_texts(pack))
    pad, bos, eos, image = (tokenizer.get_vocab()[token] for token in SPECIAL)
    torch.manual_seed(recipe.seed)
    model = make_model(make_config(len(tokenizer), len(tokenizer), image, bos, eos, pad))
    pretrain_vision(model.vision_model, recipe, report("eyes"))
    return Network(model, tokenizer, tokenizer, CLIP_MEAN, CLIP_STD, "embedded")


def _tokenizer_texts(pack: PromptPack) -> Iterator[str]:
    rng = random.Random(0)
    for scene in itertools.islice(scene_stream(Split.TRAIN, TOKENIZER_SEED), NUM_TOKENIZER_SCENES):
        for text in texts_of(scene, pack, rng, LanguageRecipe.num_questions):
            yield text.prompt
            yield text.target


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--vision-steps", type=int, default=VisionRecipe.num_steps)
    parser.add_argument("--language-steps", type=int, default=LanguageRecipe.num_steps)
    parser.add_argument("--start", type=Path, help="a folder of an earlier run, whose words are to be improved")
    options = parser.parse_args()
    torch.set_num_threads(1)  # at this size more threads do not help; more processes do
    if "WORLD_SIZE" in os.environ:
        distributed.init_process_group("gloo")
    began = time.monotonic()

    def report(stage: str) -> Report:
        def line(step: int, figures: dict[str, float]) -> None:
            if not distributed.is_initialized() or distributed.get_rank() == 0:
                shown = "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
                sys.stdout.write(f"{stage} {step:5d}  {time.monotonic() - began:6.0f} s  {shown}\n")
                sys.stdout.flush()

        return line

    vision = VisionRecipe(num_steps=options.vision_steps)
    train(options.out, vision, LanguageRecipe(num_steps=options.language_steps), report, start=options.start)
    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
