"""Which token comes next, for many rows at once: the likeliest one, or one sampled with the row's own random number."""

from __future__ import annotations

import torch
from torch import Tensor


def greedy(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens and their log-probabilities in nats, (batch,) each, of (batch, vocabulary) in any precision."""
    if logits.is_cuda:
        from vigc.model.engines.continuous import kernels

        return kernels.greedy(logits)
    logits = logits.float()
    best, tokens = logits.max(dim=-1)
    return tokens, best - logits.logsumexp(dim=-1)


def sampled(logits: Tensor, temperature: Tensor, top_p: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """The same, sampled from each row's nucleus: the likeliest tokens that make up `top_p`. No row affects another.

    Args:
        logits: (batch, vocabulary).
        temperature, top_p, points: (batch,), float64; `points` are the random numbers, in [0, 1).
    Returns:
        Tokens, int64, and their log-probabilities in nats, (batch,) each.
    """
    logprobs = (logits.float() / temperature[:, None].float()).log_softmax(dim=-1)
    ordered, order = logprobs.exp().double().sort(dim=-1, descending=True, stable=True)
    cumulative = ordered.cumsum(dim=-1)
    last = (cumulative < top_p[:, None]).sum(dim=-1, keepdim=True).clamp(max=logits.shape[-1] - 1)
    point = points[:, None] * cumulative.gather(1, last)
    tokens = order.gather(1, torch.minimum((cumulative <= point).sum(dim=-1, keepdim=True), last))
    return tokens[:, 0], logprobs.gather(1, tokens)[:, 0]
