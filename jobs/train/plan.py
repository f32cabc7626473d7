"""A training run thought through before anything starts: data and settings read and checked, no torch, and of Ray no
more than a cluster's answer to what it has.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vigc.jobs.train.chat_data import read_chats
from vigc.jobs.train.config import LearnConfig
from vigc.jobs.train.data import Scenes, TrainingData, make_order, read_records
from vigc.model.prompts import CHAT, PromptPack, load_pack
from vigc.model.training.recipe import ON_DATA, Recipe
from vigc.model.weights.identity import ModelIdentity, identify
from vigc.platform.dataset.request import plain
from vigc.platform.instructions import open_instructions
from vigc.platform.instructions.fields import ALL, Choice
from vigc.platform.pipeline.hardware import Hardware, choose_hardware
from vigc.platform.records import ConfigError, Kind


@dataclass(frozen=True)
class TrainPlan:
    """A run thought through: every setting checked, nothing started."""

    recipe: Recipe
    out: Path
    model: ModelIdentity
    pack: PromptPack
    data: TrainingData | Scenes
    validation: TrainingData | None
    order: Any  # numpy, the entry at each position, which for scenes is the scene's number
    num_workers: int
    fewest_workers: int  # the run goes on with as many as there are machines for, between the two
    cpus_per_worker: int | None  # None: one, and where there is one worker all of the machine's
    hardware: Hardware  # of each worker
    max_failures: int
    tracking: str | None  # URI of an MLflow server
    request: dict[str, Any]
    parent: str | None = None  # the MLflow run that this one is a part of

    @property
    def num_updates(self) -> int:
        return len(self.order) // self.recipe.batch_size


def make_plan(
    recipe: Recipe,
    config: LearnConfig,
    *,
    model: str | None = None,
    kind: Kind | None = None,
    prompts: str | None = None,
    choice: Choice = ALL,
) -> TrainPlan:
    """Reads and checks all data and settings.

    Raises:
        VigcError: with what is wrong, where, and what to do.
    """
    data, images, validation = config.data, config.images, config.validation
    on_scenes = recipe.objective not in ON_DATA
    if on_scenes and (data or validation):
        raise ConfigError(f"The recipe {recipe.name} learns from rendered scenes; leave --data and --validation out.")
    if not data and not on_scenes:
        raise ConfigError("No data. Name files or directories to learn from with --data (may be repeated).")
    fewest, most = config.workers
    _require_workers(recipe, fewest, most)
    pack = load_pack(prompts if prompts is not None or recipe.objective != "scene_chat" else CHAT)
    read = partial(read_chats, max_turns=recipe.max_turns) if recipe.objective == "chat" else read_records
    learnt: TrainingData | Scenes = Scenes()
    order: Any = range((recipe.num_updates or 0) * recipe.batch_size)
    if not on_scenes:
        learnt = read(open_instructions(path, images=images, kind=kind, choice=choice) for path in data)
        order = make_order(recipe, learnt.set_sizes)
    held_out = read([open_instructions(validation, images=images, kind=kind)]) if validation else None
    identity = identify(model if model is not None else recipe.base)
    request = {
        "recipe": asdict(recipe),
        "model": identity.weights,
        "prompts": pack.hash,
        "data": learnt.fingerprint(),
        "validation": held_out.fingerprint() if held_out else None,
    }
    return TrainPlan(
        recipe=recipe,
        out=Path(config.out).expanduser().absolute(),
        model=identity,
        pack=pack,
        data=learnt,
        validation=held_out,
        order=order,
        num_workers=most,
        fewest_workers=fewest,
        cpus_per_worker=config.cpus_per_worker,
        hardware=choose_hardware(config.device),
        max_failures=config.max_failures,
        tracking=config.tracking,
        request=plain(request),
    )


def _require_workers(recipe: Recipe, fewest: int, most: int) -> None:
    if fewest < most and recipe.parallel.startswith("zero"):
        raise ConfigError(
            f"--workers {fewest}:{most}: DeepSpeed's state belongs to one number of workers; give one, or parallel=ddp."
        )
    if uneven := [n for n in range(fewest, most + 1) if recipe.batch_size % n]:
        raise ConfigError(
            f"batch_size {recipe.batch_size} cannot be dealt evenly to {uneven[0]} workers; "
            "change --workers, or --set batch_size."
        )


def fresh_model(recipe: Recipe, out: str) -> str:
    """The folder of a new model that knows nothing yet, for recipes that start from none."""
    from vigc.model.embedded.files import fresh_network
    from vigc.model.llava.tiny import tiny_llava
    from vigc.model.weights.model_folders import save_network

    folder = Path(out).expanduser().absolute() / "fresh"
    if not folder.exists():
        if recipe.fresh is not None:
            save_network(fresh_network(recipe.fresh, load_pack(), recipe.seed), folder)
        else:
            save_network(tiny_llava(load_pack(), recipe.seed), folder)
    return str(folder)
