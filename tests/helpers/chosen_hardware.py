"""What verbs would run their models on: python chosen_hardware.py FOLDER

Prints, for each verb and each way to say --device, the device and the GPUs per process that it hands to Ray, or the
error that it ends with, as JSON. Everything before that is real, on the Ray at RAY_ADDRESS or on this machine.
"""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import ray.train.torch
import ray.util.queue
from ports import free_ports
from training_runs import SMALL, make_data

from vigc.jobs import cli
from vigc.jobs.experiment import run as experiment
from vigc.jobs.serve import run as serve
from vigc.model.embedded import PATH
from vigc.platform.pipeline import run as pipeline
from vigc.platform.pipeline.ray_session import init_ray


class HandedOver(BaseException):
    """Instead of work: what would have been handed to Ray."""


def to_the_pipeline(pass_: Any, graph: Any, **settings: Any) -> None:
    raise HandedOver(graph.worker_args[0].engine.device, graph.gpus_per_actor)


def to_the_trainer(*args: Any, train_loop_config: Any, scaling_config: Any, **settings: Any) -> None:
    gpus = scaling_config.resources_per_worker.get("GPU", 0) if scaling_config.use_gpu else 0
    raise HandedOver(train_loop_config["settings"].device, gpus)


def to_the_service(settings: Any, *where: Any) -> None:
    raise HandedOver(settings.device, settings.gpus_per_replica)


def to_the_experiment(config: Any, *rest: Any) -> None:
    raise HandedOver(config.device, None)


def chosen(*arguments: object) -> list[Any]:
    sys.argv = ["vigc", *map(str, arguments)]
    said = io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said):
            cli.main()
    except HandedOver as handed:
        return list(handed.args)
    except SystemExit:
        return [said.getvalue()]
    return ["nothing was handed over"]


def main(folder: Path) -> None:
    pipeline.run = to_the_pipeline
    ray.train.torch.TorchTrainer = to_the_trainer
    ray.util.queue.Queue = lambda **options: None
    serve._deploy, serve._end = to_the_service, lambda: None
    experiment._run = to_the_experiment
    data = make_data(folder / "scenes")
    images = folder / "scenes" / "images"
    questions = folder / "questions.jsonl"
    questions.write_text(json.dumps({"image": "000000.jpg", "question": "What is it?", "answers": ["A house."]}))
    recipe = [word for option in SMALL for word in ("--set", option)]
    verbs: dict[str, list[object]] = {
        "generate": ["generate", images],
        "plan": ["generate", images],
        "evaluate": ["evaluate", "embedded", "--benchmark", "questions", "--questions", questions, "--images", images],
        "train": ["train", "--recipe", "paper_7b", "--model", PATH, "--data", data, *recipe],
        "finetune": ["finetune", PATH, "--data", data, *recipe],
        "experiment": ["experiment"],
        "serve": ["serve", "--port", free_ports(1)[0]],
    }
    found: dict[str, Any] = {}
    for verb, arguments in verbs.items():
        for device in ("auto", "cuda", "cpu"):
            before = ["plan"] if verb == "plan" else []
            out = [] if verb == "serve" else ["--out", folder / f"{verb}-{device}"]
            found[f"{verb} {device}"] = chosen(*before, *arguments, "--device", device, *out)
        if not ray.is_initialized():
            init_ray(log_to_driver=False)  # the other verbs find themselves on a cluster that was joined before
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
