"""How likely given texts are: teacher-forced passes, many at a time.

Texts of like length are read together. They are padded on the right, where causal attention does not look, so a text's
scores do not depend on its company.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vigc.model.completion import ScoredToken
from vigc.model.network import Network

_LENGTHS_APART = 1.3  # how many times as long as the shortest the longest text of a pass may be


@dataclass(frozen=True)
class Score:
    """Work: teacher-forced log-probabilities of `text` behind `prompt`."""

    qformer_text: str
    prompt: str
    text: str


@dataclass(frozen=True)
class Reading:
    """A text as tokens."""

    work: Score
    ids: list[int]  # of prompt and text
    start: int  # the first token of the text, or the one that the prompt ends in
    ends: list[int]  # where the tokens from `start` on end, in characters of the text

    def __len__(self) -> int:
        return len(self.ids)


def read(network: Network, work: Score) -> Reading:
    """Prompt and text are tokenised as one, without a seam."""
    before = network.prompt_ids(work.prompt)
    whole, ends = network.prompt_ids_and_ends(work.prompt + work.text)
    pairs = enumerate(zip(before, whole, strict=False))
    start = next((i for i, (a, b) in pairs if a != b), min(len(before), len(whole)))
    return Reading(work, whole, start, [end - len(work.prompt) for end in ends[start:]])


def score(network: Network, visual: Tensor, readings: Sequence[Reading]) -> list[list[ScoredToken]]:
    """One pass over all.

    Args:
        visual: (len(readings), num_queries, language_width).
    """
    longest = max(map(len, readings))
    ids = torch.tensor([one.ids + [network.eos_id] * (longest - len(one)) for one in readings]).to(network.device)
    embeds = torch.cat([visual, network.embed(ids)], dim=1)
    hidden = network.language_model.model(inputs_embeds=embeds, use_cache=False).last_hidden_state
    rows = torch.tensor([row for row, one in enumerate(readings) for _ in one.ends], device=network.device)
    places = torch.tensor([i for one in readings for i in range(one.start, len(one))], device=network.device)
    # Only what is asked for goes through the vocabulary, which is wide; a token is foretold one position before it.
    logits = network.language_model.lm_head(hidden[rows, visual.shape[1] + places - 1]).float()
    chosen = logits.gather(1, ids[rows, places][:, None])[:, 0] - logits.logsumexp(dim=-1)
    logprobs = iter(chosen.tolist())
    return [[ScoredToken(end, next(logprobs)) for end in one.ends] for one in readings]


def of_like_length(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Which of these go into a pass together: of like length, for padding is work, and no more than `most` positions.

    Returns:
        Places in `lengths`, each in one group.
    """
    groups: list[list[int]] = []
    shortest = 0
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[place]
        if not groups or length > shortest * _LENGTHS_APART or length * (len(groups[-1]) + 1) > most:
            groups.append([])
            shortest = length
        groups[-1].append(place)
    return groups
