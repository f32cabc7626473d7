"""What the model says in the middle of training, for people to look at."""

from __future__ import annotations

import torch

from vigc.model.network import Network
from vigc.model.training.objective import Row


@torch.no_grad()
def say(network: Network, rows: list[Row], max_tokens: int = 96) -> list[str]:
    """Greedy answers to the first prompt of each row (`pixels` and `prompts`), one at a time."""
    said = []
    for row in rows:
        features = network.encode_images(torch.tensor(row["pixels"], device=network.device)[None])
        visual = network.visual_tokens(features, *network.qformer_ids([row["prompts"][0]]))
        prompt = torch.tensor([network.prompt_ids(row["prompts"][0])], device=network.device)
        embeds = torch.cat([visual, network.embed(prompt).to(visual.dtype)], dim=1)
        ids = network.language_model.generate(
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long, device=network.device),
            max_new_tokens=max_tokens,
            do_sample=False,
            bos_token_id=network.bos_id,
            eos_token_id=network.eos_id,
            pad_token_id=network.eos_id,
        )
        said.append(str(network.tokenizer.decode(ids[0], skip_special_tokens=True)).strip())
    return said
