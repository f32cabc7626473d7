"""On a GPU: steps of `vigc finetune` and answers of a model in the shape of LLaVA-1.5-7B, with random weights.

PYTHONPATH=. python tests/benchmarks/scripts/gpu_finetune.py [--layers 32] [--json OUT.json]

Says target and sequence tokens a second, the share of the GPU's arithmetic, and peak memory, for LoRA and for the
projector alone, then images and tokens a second of greedy answers. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from vigc.model.embedded import PATH
from vigc.model.llava.chat import LLAVA_V1, ChatTemplate
from vigc.model.llava.network import LlavaNetwork
from vigc.model.network import load_network
from vigc.model.training.chat import ChatObjective
from vigc.model.training.flops import peak_flops
from vigc.model.training.recipe import llava_lora
from vigc.model.training.schedule import make_optimizer
from vigc.model.training.trainable import Trainable, set_trainable

STEPS, WARM_UP, ROWS, WORDS = 12, 4, 16, 120


def make_network(layers: int) -> LlavaNetwork:
    """The 7B shape (CLIP ViT-L/14 at 336 pixels, Vicuna), with a tokenizer that is at hand."""
    tokenizer = load_network(PATH, device="cpu").tokenizer
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    text = LlamaConfig(
        vocab_size=32064,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=4096,
    )
    image = int(tokenizer.convert_tokens_to_ids("<image>"))
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=image)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlavaForConditionalGeneration(config)
    torch.set_default_dtype(torch.float32)
    chat = ChatTemplate(LLAVA_V1, "<image>", str(tokenizer.eos_token), tokenizer, "random 7B")
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    return LlavaNetwork(model.eval().requires_grad_(False), tokenizer, chat, mean, std, "random 7B")


def make_rows(size: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {
            "pixels": rng.integers(0, 255, (size, size, 3), dtype=np.uint8),
            "prompts": ["What does the picture show?"],
            "targets": [" ".join(["There is a small red car at the top."] * (WORDS // 9))],
        }
        for _ in range(ROWS)
    ]


def train(network: LlavaNetwork, wanted: Trainable, name: str) -> dict[str, Any]:
    set_trainable(network, wanted)
    objective = ChatObjective(network, autocast=torch.bfloat16, gradient_checkpointing=True)
    optimizer = make_optimizer([objective], 2e-4)
    batch = objective.collate(make_rows(network.image_size)).to(network.device)
    torch.cuda.reset_peak_memory_stats()
    began, losses = 0.0, []
    for step in range(STEPS):
        if step == WARM_UP:
            torch.cuda.synchronize()
            began = time.perf_counter()
        loss = objective(batch)[0] / batch.num_counted
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
    torch.cuda.synchronize()
    took = (time.perf_counter() - began) / (STEPS - WARM_UP)
    assert losses[-1] < losses[0], losses
    flops = objective.flops(batch) / took
    return {
        "what": name,
        "rows": ROWS,
        "tokens_per_s": batch.num_tokens / took,
        "target_tokens_per_s": batch.num_counted / took,
        "step_s": took,
        "tflops_per_s": flops / 1e12,
        "mfu": flops / peak_flops("bf16", network.device),
        "memory_gib": torch.cuda.max_memory_allocated() / 2**30,
        "loss": [losses[0], losses[-1]],
    }


@torch.no_grad()
def answer(network: LlavaNetwork, num: int = 32, new_tokens: int = 64) -> dict[str, Any]:
    network.model.eval()
    pixels = torch.from_numpy(np.stack([row["pixels"] for row in make_rows(network.image_size)] * (num // ROWS)))
    token = network.chat.image_token
    prompt = network.chat.prompt("What does the picture show?").replace(token, token * network.num_image_tokens)
    ids = torch.tensor([network.tokenizer(prompt).input_ids] * num, device=network.device)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": network.pixel_values(pixels)}
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):  # the first warms up
        torch.cuda.synchronize()
        began = time.perf_counter()
        network.model.generate(**given, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False)
        torch.cuda.synchronize()
        took = time.perf_counter() - began
    return {
        "what": "greedy answers",
        "images_per_s": num / took,
        "tokens_per_s": num * new_tokens / took,
        "memory_gib": torch.cuda.max_memory_allocated() / 2**30,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    network = make_network(options.layers)
    found = [answer(network), train(network, Trainable(qformer=False), "projector alone")]
    (recipe,) = llava_lora()
    found.append(train(network, recipe.trainable, "LoRA and projector"))
    for one in found:
        print({key: round(value, 4) if isinstance(value, float) else value for key, value in one.items()})
    if options.json:
        report = {"device": torch.cuda.get_device_name(), "layers": options.layers, "results": found}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
