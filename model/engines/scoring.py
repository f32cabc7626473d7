"""How likely given texts are: teacher-forced passes, many at a time.

Texts of like length are read together. They are padded on the right, where causal attention does not look, so a text's
scores do not depend on its company. A text's last token is foretold and never read, so "yes" and "no" behind the same
question share one reading.
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
class ScoreRequest:
    """Work: teacher-forced log-probabilities of `text` behind `prompt`."""

    qformer_text: str
    prompt: str
    text: str


@dataclass(frozen=True)
class TokenizedText:
    """A text as tokens."""

    work: ScoreRequest
    qformer_row: list[int]
    ids: list[int]  # of prompt and text
    start: int  # the first token of the text, or the one that the prompt ends in
    ends: list[int]  # where the tokens from `start` on end, in characters of the text

    def __len__(self) -> int:
        """Tokens that are read."""
        return len(self.ids) - 1

    @property
    def key(self) -> tuple[str, tuple[int, ...]]:
        """What is read: equal where one reading, of the same image, serves both."""
        return self.work.qformer_text, tuple(self.ids[:-1])


def read(network: Network, work: ScoreRequest) -> TokenizedText:
    """Prompt and text are tokenised as one, without a seam."""
    before = network.prompt_ids(work.prompt)
    whole, ends = network.prompt_ids_and_ends(work.prompt + work.text)
    pairs = enumerate(zip(before, whole, strict=False))
    start = next((i for i, (a, b) in pairs if a != b), min(len(before), len(whole)))
    ends = [end - len(work.prompt) for end in ends[start:]]
    return TokenizedText(work, network.qformer_row(work.qformer_text), whole, start, ends)


def score(
    network: Network, visual: Tensor, texts: Sequence[TokenizedText], rows: Sequence[int]
) -> list[list[ScoredToken]]:
    """One pass over all.

    Args:
        visual: (number of rows, num_queries, language_width).
        rows: of each reading; those with the same row are about the same image and have the same key.
    """
    read_by = dict(zip(rows, texts, strict=True))
    longest = max(map(len, texts))
    padded = [read_by[row].ids[:-1] for row in range(len(visual))]
    ids = torch.tensor([one + [network.eos_id] * (longest - len(one)) for one in padded]).to(network.device)
    embeds = torch.cat([visual, network.embed(ids)], dim=1)
    hidden = network.language_model.model(inputs_embeds=embeds, use_cache=False).last_hidden_state
    pairs = list(zip(rows, texts, strict=True))
    places = [(row, place, one.ids[place]) for row, one in pairs for place in range(one.start, len(one.ids))]
    row, place, token = torch.tensor(places, dtype=torch.long, device=network.device).reshape(-1, 3).T
    # Only what is asked for goes through the vocabulary, which is wide; a token is foretold one position before it.
    logits = network.language_model.lm_head(hidden[row, visual.shape[1] + place - 1]).float()
    chosen = logits.gather(1, token[:, None])[:, 0] - logits.logsumexp(dim=-1)
    logprobs = iter(chosen.tolist())
    return [[ScoredToken(end, next(logprobs)) for end in one.ends] for one in texts]


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
