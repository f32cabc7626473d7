"""The language loss of the embedded model's own training, which wants the visual tokens, too."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from vigc.model.network import Network, pad_right
from vigc.model.training.instructions import IGNORE


@dataclass(frozen=True, slots=True)
class Sample:
    """One text to learn about one image of the batch: `prompt` is read by the Q-Former and the language model, `target`
    is what comes after.
    """

    image: int  # index into the batch's images
    prompt: str
    target: str


def language_loss(network: Network, features: Tensor, samples: list[Sample]) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy over the target tokens and their end mark; prompt, visual and padding positions do not count
    (facts of the paper's recipe).

    Args:
        features: (num_images, num_patches + 1, vision_width) from `Network.encode_images`.
    Returns:
        the loss, and the visual tokens (len(samples), num_queries, language_width), for losses of one's own.
    """
    text_ids, text_mask = network.qformer_ids([s.prompt for s in samples])
    index = torch.tensor([s.image for s in samples], device=features.device)
    visual = network.visual_tokens(features[index], text_ids, text_mask)
    prompts = [network.prompt_ids(s.prompt) for s in samples]
    targets = [[*network.tokenizer(s.target, add_special_tokens=False).input_ids, network.eos_id] for s in samples]
    ids, mask = pad_right([p + t for p, t in zip(prompts, targets, strict=True)], network.eos_id, features.device)
    embeds = torch.cat([visual, network.embed(ids).to(visual.dtype)], dim=1)
    full_mask = torch.cat([torch.ones(visual.shape[:2], dtype=mask.dtype, device=mask.device), mask], dim=1)
    hidden = network.language_model.model(
        inputs_embeds=embeds, attention_mask=full_mask, use_cache=False
    ).last_hidden_state
    wanted = torch.full_like(ids, IGNORE)
    for row, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        wanted[row, len(prompt) : len(prompt) + len(target)] = torch.tensor(target, device=ids.device)
    # The hidden state before a token predicts it; only those positions go through the vocabulary.
    before = hidden[:, visual.shape[1] - 1 : -1]
    chosen = wanted != IGNORE
    logits = network.language_model.lm_head(before[chosen])
    return functional.cross_entropy(logits.float(), wanted[chosen]), visual


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Makes every process hold the mean gradient; does nothing in a single process."""
    if not distributed.is_initialized():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
