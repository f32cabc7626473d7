"""The vllm engine beside the default one, on the same model, images and prompts.

python tests/benchmarks/scripts/bench_vllm.py [--kind detail] [--rounds 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
from rich.table import Table

from vigc.jobs.bench.common import write_figures
from vigc.jobs.terminal import make_console
from vigc.model import embedded
from vigc.model.benchmarks.baselines import Side, by_engine, spoken
from vigc.model.benchmarks.embedded import held_out_scenes
from vigc.model.benchmarks.speed import WARM_UP
from vigc.model.conversation.policy import make_policy
from vigc.model.engines.continuous.engine import ContinuousEngine
from vigc.model.engines.continuous.replicas import ReplicatedEngine, continuous_engine
from vigc.model.engines.vllm.engine import VllmEngine
from vigc.model.network import load_network
from vigc.model.prompts import load_pack
from vigc.model.scenes import render
from vigc.platform.records import Kind


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--kind", type=Kind, choices=tuple(Kind), default=Kind.DETAIL)
    parser.add_argument("--vllm-python", metavar="PATH", help="as of vigc generate")
    parser.add_argument("--slots", type=int, default=64, help="slots of each engine")
    parser.add_argument("--threads", type=int, help="threads of each engine; all cores if not given")
    parser.add_argument("--num", type=int, default=256, help="rendered scenes")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of both, alternating")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    given = parser.parse_args()
    beside_vllm(
        kind=given.kind,
        vllm_python=given.vllm_python,
        slots=given.slots,
        threads=given.threads,
        num=given.num,
        rounds=given.rounds,
        json_file=given.json,
    )


def beside_vllm(
    *,
    kind: Kind,
    vllm_python: str | None,
    slots: int,
    threads: int | None,
    num: int,
    rounds: int,
    json_file: Path | None,
) -> None:
    """Rounds of both in turn over rendered scenes, fp32 and greedy; the medians are printed.

    Args:
        threads: of each engine; None: all cores.
    """
    console = make_console()
    network = load_network(embedded.PATH, device="cpu", dtype="float32")
    images = [np.asarray(render(scene, network.image_size)) for scene in held_out_scenes(num, seed=5)]
    talk = spoken(network, load_pack(), make_policy("paper"), kind)
    console.print("starting vLLM", style="dim")
    began = time.perf_counter()
    engines: dict[str, ContinuousEngine | ReplicatedEngine | VllmEngine] = {
        "vllm": VllmEngine(network, python=vllm_python, num_slots=slots, num_threads=threads)
    }
    start_s = time.perf_counter() - began
    made: dict[str, list[Side]] = {"vllm": [], "continuous": []}
    try:
        engines["continuous"] = continuous_engine(network, num_slots=slots, num_threads=threads)
        for engine in engines.values():
            by_engine(engine, images[:WARM_UP], talk)
        for number in range(rounds):
            for name, engine in engines.items():
                console.print(f"round {number + 1} of {rounds}: {name}", style="dim")
                made[name].append(by_engine(engine, images, talk))
    finally:
        for engine in engines.values():
            engine.close()
    ratios = [ours.images_per_s / theirs.images_per_s for ours, theirs in zip(*made.values(), strict=True)]
    figures: dict[str, float | str] = {
        "kind": str(kind),
        "num_images": num,
        "rounds": rounds,
        "slots": slots,
        "vllm_start_s": start_s,
        "texts_equal": statistics.mean(
            a == b for a, b in zip(made["vllm"][0].texts, made["continuous"][0].texts, strict=True)
        ),
        "vllm_over_continuous": statistics.median(ratios),
        "vllm_over_continuous_least": min(ratios),
        "vllm_over_continuous_most": max(ratios),
    }
    table = Table("engine", "images/s", "tokens/s", "tokens decoded for one kept", box=None, pad_edge=False)
    for name, sides in made.items():
        rate = statistics.median(side.images_per_s for side in sides)
        tokens = statistics.median(side.num_decoded / side.seconds for side in sides)
        waste = statistics.median(side.num_decoded / side.num_kept for side in sides)
        table.add_row(name, f"{rate:.2f}", f"{tokens:.0f}", f"{waste:.2f}")
        figures |= {
            f"images_per_s_{name}": rate,
            f"tokens_per_s_{name}": tokens,
            f"tokens_decoded_per_token_kept_{name}": waste,
        }
    console.print(table)
    console.print(
        f"vllm / continuous: {figures['vllm_over_continuous']:.2f}, the median of {rounds} rounds "
        f"({min(ratios):.2f} to {max(ratios):.2f}); same texts {figures['texts_equal']:.1%}; vLLM started in "
        f"{start_s:.0f} s"
    )
    write_figures(json_file, figures)


if __name__ == "__main__":
    main()
