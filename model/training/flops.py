"""Arithmetic of an update, counted from shapes: for model FLOP utilisation, where recomputation does not count.

A weight matrix costs 2 per weight and token forward, 2 again for the gradient of its input where something before it is
trained, and 2 again for its own gradient where it is trained itself. Attention's products with no weights are counted
alike.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from vigc.model.network import Network


def matrix_weights(part: nn.Module, trained: bool | None = None) -> int:
    """Weights in linear layers and convolutions (of those trained or frozen, if asked): embeddings are looked up."""
    kinds = (nn.Linear, nn.Conv2d)
    return sum(
        m.weight.numel()
        for m in part.modules()
        if isinstance(m, kinds) and (trained is None or m.weight.requires_grad is trained)
    )


def text_flops(network: Network, texts: Any) -> float:
    """One update's arithmetic for a `TextBatch`."""
    model, config = network.model, network.model.config
    num_patches: int = (network.image_size // config.vision_config.patch_size) ** 2 + 1
    vision_tokens = texts.pixels.shape[0] * num_patches
    vision_trained = matrix_weights(model.vision_model, trained=True) > 0
    total = float(vision_tokens) * per_token(model.vision_model, vision_trained)
    num_texts = texts.ids.shape[0]
    read = float(texts.qformer_mask.sum())
    queries = float(num_texts * network.num_queries)
    total += _qformer(model.qformer, queries, read, float(num_texts * num_patches), vision_trained)
    total += queries * per_token(model.language_projection, True)
    tokens = float(texts.mask.sum()) + queries
    language = network.language_model
    total += tokens * per_token(language.model, True)
    total += float(texts.num_counted) * per_token(language.lm_head, True)
    lengths = texts.mask.sum(1).double() + network.num_queries
    text = config.text_config
    # Scores and mixtures of causal attention: half of length² each, forward and twice backward.
    return total + 3 * 2 * float((lengths**2).sum()) * float(text.hidden_size * text.num_hidden_layers)


def _qformer(qformer: nn.Module, queries: float, read: float, patches: float, vision_trained: bool) -> float:
    """Queries and text share the self-attention and have feed-forwards of their own; cross-attention's keys and values
    are of the patches, once for each text.
    """
    total = 0.0
    trained = any(p.requires_grad for p in qformer.parameters())
    for name, part in qformer.named_modules():
        if isinstance(part, nn.Linear):
            tokens, flows = queries + read, trained
            if "crossattention" in name and ("key" in name or "value" in name):
                tokens, flows = patches, vision_trained
            elif "crossattention" in name or "_query" in name:
                tokens = queries
            elif "intermediate" in name or (".output." in name and "attention" not in name):
                tokens = read
            total += tokens * per_token(part, flows)
    return total


def per_token(part: nn.Module, gradient_flows: bool) -> float:
    forward = 2.0 * matrix_weights(part)
    return forward * (2 if gradient_flows else 1) + 2.0 * matrix_weights(part, trained=True)


# Dense bf16 and fp16 of the makers' data sheets, per second.
DEVICES = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "4090": 165e12, "A10": 125e12}


def peak_flops(precision: str, device: torch.device) -> float:
    """What the device could do: its data sheet's figure, or, where there is none here, that of a large matrix product,
    measured on the spot with this process's threads.
    """
    if device.type == "cuda" and precision != "fp32":
        name = torch.cuda.get_device_name(device)
        known = next((flops for part, flops in DEVICES.items() if part in name.replace("-", " ").split()), None)
        if known is not None:
            return known
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    side = 1024 if device.type == "cpu" else 8192
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        (left @ right)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - began)
    return 2.0 * side**3 / best
