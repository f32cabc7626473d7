"""Small models beside each other: what does VIC gain, and what from?

python tests/benchmarks/scripts/ablate_queries.py FILE --eyes FOLDER --queries 2 4 8 16 32 --seeds 0 1 2

Every run takes over the same eyes and learns descriptions alone, VIG and VIC, with the same budget; then both describe
the same hard held-out scenes, with the prior of the world and without. The figures of a run are one line of FILE (JSON
lines); a run whose line is there is not made again.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from bench_embedded import compare, score_descriptions

from vigc.model.benchmarks.embedded import generate, held_out_scenes
from vigc.model.conversation.policy import make_policy
from vigc.model.embedded.files import fresh_network
from vigc.model.embedded.scene_rows import TextMixture, make_text_row
from vigc.model.embedded.shape import SMALL
from vigc.model.engines.continuous.replicas import continuous_engine
from vigc.model.network import Network, load_network
from vigc.model.prompts import PromptPack, load_pack
from vigc.model.training.loop import Report, TrainingState, train
from vigc.model.training.objective import Batch
from vigc.model.training.parallel import make_parallel
from vigc.model.training.recipe import Recipe, embedded
from vigc.model.training.scene_texts import SceneTextObjective
from vigc.model.training.trainable import set_trainable
from vigc.platform.records import Kind

_DESCRIPTIONS = TextMixture(num_begun=3, num_curious=0, num_questions=0, num_thoughtful=0)


@dataclass(frozen=True)
class Run:
    """What one small model differs in."""

    queries: int
    seed: int
    steps: int = 900
    batch: int = 6
    noise: float = TextMixture.noise
    auxiliary: float = Recipe.auxiliary_weight
    learning_rate: float = 1e-3


def make(run: Run, eyes: Path, pack: PromptPack) -> Network:
    """The trained small model."""
    network = fresh_network(replace(SMALL, num_queries=run.queries), pack, run.seed)
    seeing = load_network(eyes, device="cpu", dtype="float32").model.vision_model
    network.model.vision_model.load_state_dict(seeing.state_dict())
    _, words = embedded()
    recipe = replace(
        words,
        num_updates=run.steps,
        batch_size=run.batch,
        micro_batch_size=run.batch,
        optimizer=replace(words.optimizer, peak=run.learning_rate),
        auxiliary_weight=run.auxiliary,
        texts=replace(_DESCRIPTIONS, noise=run.noise),
        seed=run.seed,
    )
    _train(network, pack, recipe)
    network.model.set_attn_implementation("sdpa")
    return network


def _train(network: Network, pack: PromptPack, recipe: Recipe) -> None:
    """The words' stage in this process, on one core."""
    set_trainable(network, recipe.trainable)
    network.model.set_attn_implementation("eager")
    objective = SceneTextObjective(network, auxiliary_weight=recipe.auxiliary_weight, autocast=torch.bfloat16)
    num_updates, size = recipe.num_updates or 0, recipe.batch_size
    batches: Iterator[list[Batch]] = (
        [
            objective.collate(
                [
                    make_text_row(recipe.seed, i, image_size=network.image_size, pack=pack, mixture=recipe.texts)
                    for i in range(update * size, (update + 1) * size)
                ]
            )
        ]
        for update in range(num_updates)
    )
    train(
        make_parallel(objective, recipe, network.device),
        recipe,
        num_updates,
        batches,
        state=TrainingState(),
        on_update=_report,
        on_checkpoint=lambda state, figures: None,
    )
    network.model.eval().requires_grad_(False)


def measure(network: Network, pack: PromptPack, num: int, seed: int = 1) -> dict[str, float]:
    """VIG, VIC in one go, and VIC on hard held-out scenes; names end in `_debiased` where the prior is broken."""
    engine = continuous_engine(network, num_slots=128, num_threads=1)
    policy = make_policy("paper", one_shot=True)
    figures: dict[str, float] = {}
    try:
        for debiased in (False, True):
            scenes = held_out_scenes(num, seed, debiased=debiased, hard=True)
            made = [row[0] for row in asyncio.run(generate(engine, pack, policy, scenes, [Kind.DETAIL]))]
            texts = {
                "vig": [c.vig_answer for c in made],
                "one_shot": [c.one_shot_answer or "" for c in made],
                "vic": [c.answer for c in made],
            }
            found: dict[str, float] = {}
            for name, described in texts.items():
                score = asdict(score_descriptions(scenes, described))
                found |= {f"{key}_{name}": round(value, 4) for key, value in score.items()}
            change = compare(scenes, texts["vig"], texts["vic"])
            found |= {"fixed": change.fixed, "broken": change.broken, "p_value": change.p_value}
            figures |= {name + "_debiased" * debiased: value for name, value in found.items()}
    finally:
        engine.close()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--eyes", type=Path, required=True, help="a folder of a small model, whose eyes all runs take")
    parser.add_argument("--queries", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--noise", type=float, nargs="+", default=[Run.noise])
    parser.add_argument("--auxiliary", type=float, nargs="+", default=[Run.auxiliary])
    parser.add_argument("--steps", type=int, default=Run.steps)
    parser.add_argument("--learning-rate", type=float, default=Run.learning_rate, help="of AdamW; Muon's is a multiple")
    parser.add_argument("--num", type=int, default=300, help="held-out scenes of each of the two sets")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pack = load_pack()
    for seed, queries, noise, auxiliary in itertools.product(
        options.seeds, options.queries, options.noise, options.auxiliary
    ):
        run = Run(
            queries,
            seed,
            steps=options.steps,
            noise=noise,
            auxiliary=auxiliary,
            learning_rate=options.learning_rate,
        )
        about = {**asdict(run), "num_scenes": options.num}
        lines = options.file.read_text(encoding="utf-8").splitlines() if options.file.exists() else []
        if any(about.items() <= json.loads(line).items() for line in lines):
            continue
        began = time.process_time()
        network = make(run, options.eyes, pack)
        trained = time.process_time() - began
        figures = measure(network, pack, options.num)
        with options.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**about, "training_cpu_s": round(trained), **figures}) + "\n")


def _report(report: Report) -> None:
    if report.state.update % 25 == 0:
        figures = "  ".join(f"{name} {value:.3g}" for name, value in report.metrics.items())
        sys.stdout.write(f"{report.state.update:5d}  {figures}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
