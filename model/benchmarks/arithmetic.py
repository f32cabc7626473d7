"""The arithmetic of a network and the bytes it has to move, counted from its shape, and what this machine can do of
both: together the least time that the work can take.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from vigc.model.engines.metrics import EngineMetrics
from vigc.model.network import Network


@dataclass(frozen=True)
class Work:
    """Floating-point operations, a multiplication and its addition being two."""

    vision: float
    qformer: float
    prefill: float
    decode: float

    @property
    def total(self) -> float:
        return self.vision + self.qformer + self.prefill + self.decode


def count(network: Network, metrics: EngineMetrics) -> Work:
    """What an engine's metrics says it did."""
    vision, qformer = network.model.config.vision_config, network.model.config.qformer_config
    text = network.language_model.config
    patches = (vision.image_size // vision.patch_size) ** 2 + 1
    seeing = (
        2 * vision.num_hidden_layers * (4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size)
    )
    seeing += 4 * vision.num_hidden_layers * patches * vision.hidden_size
    looks = len(range(0, qformer.num_hidden_layers, qformer.cross_attention_frequency))
    remembering = 2 * looks * 2 * vision.hidden_size * qformer.hidden_size
    reading = (
        2
        * qformer.num_hidden_layers
        * (4 * qformer.hidden_size**2 + 2 * qformer.hidden_size * qformer.intermediate_size)
    )
    queries = metrics.num_calls * network.num_queries
    looking = looks * (4 * qformer.hidden_size**2 + 4 * patches * qformer.hidden_size)
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    heads = text.num_attention_heads + text.num_key_value_heads
    layer = 2 * heads * head_dim * text.hidden_size + 3 * text.hidden_size * text.intermediate_size
    token = 2 * text.num_hidden_layers * layer
    back = 4 * text.num_hidden_layers * text.num_attention_heads * head_dim
    naming = 2 * text.vocab_size * text.hidden_size
    return Work(
        vision=metrics.num_images * patches * (seeing + remembering),
        qformer=metrics.num_qformer * reading + queries * looking,
        prefill=metrics.num_prefilled * (token + back * metrics.mean_context / 2) + metrics.num_calls * naming,
        decode=metrics.num_decoded * (token + back * metrics.mean_context + naming),
    )


def matmul_peak(device: torch.device, dtype: torch.dtype, size: int = 2048) -> float:
    """Operations a second that this machine reaches on large products, the best of five."""
    size = size if device.type == "cpu" else 4 * size
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        (a @ b).flatten()[0].item()  # waits for the GPU
        best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best


def bandwidth(device: torch.device) -> float:
    """Bytes a second that this machine reads and writes in a large copy, the best of five."""
    source = torch.ones(2**28 if device.type == "cuda" else 2**26, device=device)
    target, best = torch.empty_like(source), 0.0
    for _ in range(5):
        began = time.perf_counter()
        target.copy_(source)
        target[-1].item()  # waits for the GPU
        best = max(best, 2 * source.nbytes / (time.perf_counter() - began))
    return best


def least_seconds(work: Work, moved: float, peak: float, bytes_per_s: float) -> float:
    """What the work takes at least: all but decoding is arithmetic, decoding the longer of arithmetic and memory.

    Args:
        moved: bytes that decoding has to read.
        peak: operations a second.
    """
    return (work.vision + work.qformer + work.prefill) / peak + max(work.decode / peak, moved / bytes_per_s)


def bytes_per_step(network: Network, slots: float, context: float) -> float:
    """What a decode step has to read: all weights of the language model, and the keys and values of all slots."""
    text = network.language_model.config
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    weights = sum(weight.nbytes for weight in network.language_model.parameters())
    each = 2 * text.num_hidden_layers * text.num_key_value_heads * head_dim * network.dtype.itemsize
    return float(weights + slots * context * each)
