"""This training loop beside transformers' Trainer, on the same model, texts, batches and precision.

python tests/benchmarks/scripts/bench_train.py [--rounds 5] [--updates 4] [--precision fp32|bf16] [--json FILE]

Both train the Q-Former, its queries and the projection of the embedded model on scenes, several texts each. The Trainer
gets what its documentation leads to: one sample per text, padded together, the model's own `forward(labels=…)`. Rounds
alternate, so what else the machine does falls on both.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from vigc.jobs.bench.common import write_figures
from vigc.jobs.terminal import make_console
from vigc.model.training.recipe import OptimizerRecipe, Recipe

if TYPE_CHECKING:
    from vigc.model.network import Network
    from vigc.model.training.objective import Row

IMAGES_PER_UPDATE, TEXTS_PER_IMAGE = 8, 6


def train(*, rounds: int, updates: int, precision: str, json_file: Path | None) -> None:
    """Times `rounds` times `updates` updates of each, alternating; the first round of each is not counted."""
    import torch

    from vigc.model.embedded import PATH
    from vigc.model.embedded.scene_rows import scene_rows
    from vigc.model.network import load_network
    from vigc.model.prompts import load_pack
    from vigc.model.training.flops import peak_flops

    torch.set_num_threads(1)
    network = load_network(PATH, device="cpu", dtype="float32")
    size = updates * IMAGES_PER_UPDATE
    rows = scene_rows(size, TEXTS_PER_IMAGE, image_size=network.image_size, pack=load_pack())
    texts = sum(len(row["prompts"]) for row in rows)
    ours, theirs = _Ours(rows, precision), _Trainer(rows, precision)
    times: dict[str, list[float]] = {"ours": [], "trainer": []}
    loss: dict[str, float] = {}
    for _ in range(rounds + 1):
        for name, run in (("ours", ours), ("trainer", theirs)):
            began = time.perf_counter()
            loss[name] = run()
            times[name].append(time.perf_counter() - began)
    took = {name: statistics.median(values[1:]) for name, values in times.items()}
    ratios = [b / a for a, b in zip(times["ours"][1:], times["trainer"][1:], strict=True)]
    peak = peak_flops(precision, torch.device("cpu"))
    flops = ours.flops()
    figures = {
        "texts_per_s": texts / took["ours"],
        "texts_per_s_trainer": texts / took["trainer"],
        "ratio": statistics.median(ratios),
        "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios),
        "mfu": flops / took["ours"] / peak,
        "mfu_trainer": flops / took["trainer"] / peak,
        "peak_gflops": peak / 1e9,
        "first_loss": ours.first_loss,
        "first_loss_trainer": theirs.first_loss,
        **{f"share_{name}": share for name, share in ours.shares(took["ours"]).items()},
    }
    _print(figures, precision)
    write_figures(json_file, {**figures, "rounds": rounds, "updates": updates, "precision": precision})


def _network() -> Network:
    from vigc.model.embedded import PATH
    from vigc.model.network import load_network
    from vigc.model.training.trainable import Trainable, set_trainable

    network = load_network(PATH, device="cpu", dtype="float32")
    set_trainable(network, Trainable())
    return network


class _Ours:
    """Updates through the objective and the strategy that `vigc train` uses."""

    def __init__(self, rows: list[Row], precision: str) -> None:
        import torch

        from vigc.model.training.instructions import InstructionObjective
        from vigc.model.training.parallel import make_parallel

        network = _network()
        network.model.set_attn_implementation("eager")
        self._rows = rows
        self._objective = InstructionObjective(network, autocast=torch.bfloat16 if precision == "bf16" else None)
        optimizer = OptimizerRecipe(peak=1e-4, clip=1.0)
        size = IMAGES_PER_UPDATE
        recipe = Recipe("bench", "", batch_size=size, micro_batch_size=size, precision="fp32", optimizer=optimizer)
        self._parallel = make_parallel(self._objective, recipe, torch.device("cpu"))
        self._collating = self._stepping = 0.0
        self.first_loss = float("nan")

    def __call__(self) -> float:
        self._collating = self._stepping = loss = 0.0
        for start in range(0, len(self._rows), IMAGES_PER_UPDATE):
            began = time.perf_counter()
            batch = self._objective.collate(self._rows[start : start + IMAGES_PER_UPDATE])
            self._collating += time.perf_counter() - began
            total, _ = self._parallel.backward(batch, batch.num_counted, last=True)
            loss = total / batch.num_counted
            if self.first_loss != self.first_loss:
                self.first_loss = loss
            began = time.perf_counter()
            self._parallel.step(1e-4)
            self._stepping += time.perf_counter() - began
        return loss

    def flops(self) -> float:
        return self._objective.flops(self._objective.collate(self._rows))

    def shares(self, took: float) -> dict[str, float]:
        """Where the time of the last round went, and the vision model's part of it, measured alone."""
        import numpy as np
        import torch

        began = time.perf_counter()
        with torch.no_grad():
            for start in range(0, len(self._rows), IMAGES_PER_UPDATE):
                pixels = np.stack([row["pixels"] for row in self._rows[start : start + IMAGES_PER_UPDATE]])
                self._objective.network.encode_images(torch.from_numpy(pixels))
        seeing = time.perf_counter() - began
        rest = took - self._collating - self._stepping - seeing
        parts = {"tokenising": self._collating, "vision": seeing, "optimiser": self._stepping, "texts": rest}
        return {name: max(0.0, part) / took for name, part in parts.items()}


class _Trainer:
    """The same updates through transformers' Trainer."""

    def __init__(self, rows: list[Row], precision: str) -> None:
        from transformers import TrainingArguments

        self._network = _network()
        self._samples = [
            {"pixels": row["pixels"], "prompt": prompt, "target": target}
            for row in rows
            for prompt, target in zip(row["prompts"], row["targets"], strict=True)
        ]
        self._folder = tempfile.TemporaryDirectory()
        arguments = TrainingArguments(
            output_dir=self._folder.name,
            per_device_train_batch_size=IMAGES_PER_UPDATE * TEXTS_PER_IMAGE,
            num_train_epochs=1,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            weight_decay=0.05,
            max_grad_norm=1.0,
            bf16=precision == "bf16",
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            seed=0,
        )
        self._arguments = arguments
        self.first_loss = self._loss_before()

    def __call__(self) -> float:
        from transformers import PrinterCallback, Trainer

        trainer: Any = Trainer(
            model=self._network.model,
            args=self._arguments,
            train_dataset=self._samples,
            data_collator=self._collate,
        )
        trainer.remove_callback(PrinterCallback)
        return float(trainer.train().training_loss)

    def _loss_before(self) -> float:
        import torch

        with torch.no_grad():
            first = self._samples[: IMAGES_PER_UPDATE * TEXTS_PER_IMAGE]
            return float(self._network.model(**self._collate(first)).loss)

    def _collate(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        import numpy as np
        import torch

        from vigc.model.network import pad_right
        from vigc.model.training.instructions import IGNORE

        network = self._network
        image = [int(network.model.config.image_token_id)] * network.num_queries
        ids, labels = [], []
        for sample in samples:
            prompt = network.prompt_ids(sample["prompt"])
            target = [*network.tokenizer(sample["target"], add_special_tokens=False).input_ids, network.eos_id]
            ids.append([*image, *prompt, *target])
            labels.append([IGNORE] * (len(image) + len(prompt)) + target)
        padded, mask = pad_right(ids, network.eos_id, torch.device("cpu"))
        wanted, _ = pad_right(labels, IGNORE, torch.device("cpu"))
        qformer_ids, qformer_mask = network.qformer_ids([s["prompt"] for s in samples])
        scaled = torch.from_numpy(np.stack([s["pixels"] for s in samples])).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (network.image_mean, network.image_std))
        return {
            "pixel_values": (scaled - mean) / std,
            "input_ids": padded,
            "attention_mask": mask,
            "labels": wanted,
            "qformer_input_ids": qformer_ids,
            "qformer_attention_mask": qformer_mask,
        }


def _print(figures: dict[str, float], precision: str) -> None:
    console = make_console()
    table = Table(
        "", "texts/s", "MFU", title=f"training the embedded model, {precision}, one thread", title_justify="left"
    )
    table.add_row("vigc", f"{figures['texts_per_s']:.1f}", f"{figures['mfu']:.1%}")
    table.add_row("transformers Trainer", f"{figures['texts_per_s_trainer']:.1f}", f"{figures['mfu_trainer']:.1%}")
    console.print(table)
    console.print(
        f"ratio {figures['ratio']:.2f} (rounds from {figures['ratio_lowest']:.2f} to {figures['ratio_highest']:.2f}); "
        f"first loss {figures['first_loss']:.4f} and {figures['first_loss_trainer']:.4f}"
    )
    parts = [f"{name} {figures[f'share_{name}']:.0%}" for name in ("texts", "vision", "tokenising", "optimiser")]
    console.print(f"where our time goes: {', '.join(parts)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of each side, alternating")
    parser.add_argument("--updates", type=int, default=4, help="updates of 48 texts in a round")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of both sides")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    given = parser.parse_args()
    train(rounds=given.rounds, updates=given.updates, precision=given.precision, json_file=given.json)


if __name__ == "__main__":
    main()
