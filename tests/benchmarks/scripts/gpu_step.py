"""On a GPU: how long a decode step of Vicuna-7B's shape takes, beside the time that its bytes take.

PYTHONPATH=. python tests/benchmarks/scripts/gpu_step.py [--context 108] [--json OUT.json]

A step reads all weights of the language model and the keys and values of all slots, and chooses a token for each.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from vigc.model.benchmarks.arithmetic import bandwidth, bytes_per_step
from vigc.model.benchmarks.shapes import make_network
from vigc.model.engines.continuous.cache import SlotCache
from vigc.model.engines.continuous.decoder import Decoder
from vigc.model.engines.continuous.graphs import Recorded
from vigc.model.engines.continuous.sampler import greedy

SLOTS, LENGTH, STEPS = (16, 32, 64, 96, 128, 160, 192, 224, 256), 768, 20


@torch.inference_mode()
def measure(context: int) -> list[dict[str, Any]]:
    """For each number of slots, whose positions are spread evenly around `context`."""
    network = make_network("vicuna-7b", "cuda", "bfloat16")
    decoder, cache = Decoder(network, LENGTH), SlotCache(network, max(SLOTS), LENGTH)
    tokens = torch.randint(1000, (max(SLOTS),), device="cuda")
    recorded, bytes_per_s = Recorded(decoder, tokens, cache), bandwidth(network.device)
    found = []
    for slots in SLOTS:
        spread = torch.linspace(0.3, 1.7, slots, device="cuda")
        cache.positions[:slots] = (spread * context).long()
        seen = float(cache.positions[:slots].float().mean()) + 1

        def step(slots: int = slots) -> None:
            greedy(recorded(tokens[:slots], cache, LENGTH))

        for _ in range(3):  # the first records
            step()
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        for _ in range(STEPS):
            step()
        ended.record()
        ended.synchronize()
        ms = began.elapsed_time(ended) / STEPS
        least = 1e3 * bytes_per_step(network, slots, seen) / bytes_per_s
        found.append({"slots": slots, "context": seen, "ms": ms, "ms_at_least": least, "times": ms / least})
    return [*found, {"gb_per_s": bytes_per_s / 1e9, "device": torch.cuda.get_device_name()}]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--context", type=int, default=107)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = measure(options.context)
    for one in found:
        print({key: round(value, 3) if isinstance(value, float) else value for key, value in one.items()})
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
