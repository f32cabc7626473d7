"""Some updates of the embedded model on 48 scenes, in as many processes as torchrun starts.

    python train_steps.py OUT PARALLEL UPDATES [--resume-from FOLDER] [--stop-after N] [--trainable paper|lora|all]

Writes OUT/losses.json, OUT/trained.safetensors and OUT/frozen.json (hashes before and after); with more than one
micro-batch per update in every arrangement, so that accumulation is part of what is compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import distributed

from vigc.model.embedded import PATH
from vigc.model.network import load_network
from vigc.model.scenes import Split, make_scene, render
from vigc.model.scenes.wording import describe
from vigc.model.training.instructions import InstructionObjective
from vigc.model.training.loop import Report, TrainingState, train
from vigc.model.training.objective import Batch
from vigc.model.training.parallel import make_parallel, rank, rows_per_process, world_size
from vigc.model.training.recipe import OptimizerRecipe, Recipe
from vigc.model.training.trainable import Trainable, set_trainable
from vigc.model.weights.adapters import Lora

TRAINABLE = {
    "paper": Trainable(),
    "lora": Trainable(qformer=False, lora=Lora()),
    "all": Trainable(vision=True, language_model=True),
}


class Interrupted(Exception):
    pass


def make_rows(image_size: int) -> list[dict[str, Any]]:
    rows = []
    for index in range(48):
        scene = make_scene(Split.TRAIN, 5, index)
        told = describe(scene, random.Random(index))
        rows.append(
            {
                "pixels": np.asarray(render(scene, image_size)),
                "prompts": [told.question],
                "targets": [" " + told.answer],
            }
        )
    return rows


def unreadable(image_size: int) -> dict[str, Any]:
    """What is left of a row whose picture cannot be read."""
    return {"pixels": np.zeros((image_size, image_size, 3), np.uint8), "prompts": [], "targets": []}


def frozen_hashes(objective: InstructionObjective) -> dict[str, str]:
    return {
        name: hashlib.sha256(p.detach().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, p in objective.named_parameters()
        if not p.requires_grad and p.numel()
    }


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("parallel")
    parser.add_argument("updates", type=int)
    parser.add_argument("--resume-from", type=Path)
    parser.add_argument("--stop-after", type=int, help="leave the run at this update, as an interruption would")
    parser.add_argument("--trainable", default="paper")
    parser.add_argument("--precision", default="fp32")
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    torch.set_num_threads(1)
    if "WORLD_SIZE" in os.environ:
        distributed.init_process_group("gloo", timeout=timedelta(seconds=120))
    recipe = Recipe(
        "test",
        "a few updates",
        batch_size=8,
        micro_batch_size=2,
        precision=options.precision,
        parallel=options.parallel,
        optimizer=OptimizerRecipe(peak=1e-3, floor=1e-4, num_warmup=2, clip=1.0),
    )
    torch.manual_seed(0)
    network = load_network(PATH, device="cpu", dtype="float32")
    set_trainable(network, TRAINABLE[options.trainable])
    autocast = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[options.precision]
    objective = InstructionObjective(network, autocast=autocast)
    before = {} if options.parallel in ("zero3", "fsdp") else frozen_hashes(objective)
    rows = make_rows(network.image_size)
    rows[20:22] = [unreadable(network.image_size)] * 2  # a whole micro-batch of one process
    parallel = make_parallel(objective, recipe, torch.device("cpu"))
    state = TrainingState()
    if options.resume_from is not None:
        state = TrainingState(**json.loads((options.resume_from / "state.json").read_text()))
        parallel.load(options.resume_from, load_file(options.resume_from / "trained.safetensors"))

    def batches() -> Iterator[list[Batch]]:
        mine = rows_per_process(recipe)
        for update in range(state.update, 100):
            start = (update * recipe.batch_size + rank() * mine) % len(rows)
            own = rows[start : start + mine]
            yield [objective.collate(own[i : i + 2]) for i in range(0, mine, 2)]

    losses: list[float] = []
    reached = [state]

    def on_update(report: Report) -> None:
        losses.append(report.metrics["loss"])
        reached[0] = report.state
        if report.state.update == options.stop_after:
            raise Interrupted

    with suppress(Interrupted):
        train(
            parallel,
            recipe,
            options.updates,
            batches(),
            state=state,
            evaluation=lambda: iter([objective.collate(rows[rank() * 4 : rank() * 4 + 4])]),
            on_update=on_update,
            on_checkpoint=lambda state, measured: None,
        )
    last = reached[0]
    options.out.mkdir(parents=True, exist_ok=True)
    parallel.save(options.out)
    trained = parallel.trained()
    if rank() == 0:
        save_file(trained, options.out / "trained.safetensors")
        (options.out / "state.json").write_text(json.dumps({"update": last.update, "num_samples": last.num_samples}))
        (options.out / "losses.json").write_text(json.dumps(losses))
        same = {} if not before else {"same": before == frozen_hashes(objective), "num": len(before)}
        (options.out / "frozen.json").write_text(json.dumps(same | {"world_size": world_size()}))
    if distributed.is_initialized():
        distributed.barrier()  # nobody leaves while another still talks
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
