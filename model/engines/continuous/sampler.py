"""Which token comes next, for many rows at once: the likeliest, or one drawn by the row's own random number."""

from __future__ import annotations

import torch
from torch import Tensor


def likeliest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens and their log-probabilities in nats, (batch,) each, of (batch, vocabulary) in any precision."""
    if logits.is_cuda:
        from vigc.model.engines.continuous import kernels

        return kernels.likeliest(logits)
    logits = logits.float()
    best, tokens = logits.max(dim=-1)
    return tokens, best - logits.logsumexp(dim=-1)


def drawn(logits: Tensor, temperature: Tensor, top_p: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """The same, from each row's nucleus: the likeliest tokens that make up `top_p`. A row's neighbours play no part.

    Args:
        logits: (batch, vocabulary).
        temperature, top_p, points: (batch,), float64; `points` are the random numbers, in [0, 1).
    """
    logprobs = (logits.float() / temperature[:, None].float()).log_softmax(dim=-1)
    ordered, order = logprobs.exp().double().sort(dim=-1, descending=True, stable=True)
    cumulative = ordered.cumsum(dim=-1)
    last = (cumulative < top_p[:, None]).sum(dim=-1, keepdim=True).clamp(max=logits.shape[-1] - 1)
    point = points[:, None] * cumulative.gather(1, last)
    tokens = order.gather(1, torch.minimum((cumulative <= point).sum(dim=-1, keepdim=True), last))
    return tokens[:, 0], logprobs.gather(1, tokens)[:, 0]
