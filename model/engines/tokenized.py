"""A request as tokens: made in the caller's thread, so that no step of an engine waits for a tokenizer."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from vigc.model.completion import Completion, Request, seeds_of
from vigc.model.network import Network
from vigc.platform.records import ConfigError


@dataclass(eq=False)
class TokenizedRequest:
    """A request with its tokens, and how far its candidates are."""

    request: Request
    prompt: list[int]  # for the language model
    qformer_row: list[int]
    banned: list[list[int]]  # token sequences
    seeds: list[int]  # of each candidate
    pending: deque[int]  # candidates that are not being decoded yet
    completions: list[Completion | None]

    @property
    def penalizes(self) -> bool:
        """Whether its logits are changed before a token is chosen, the least number of tokens aside."""
        return bool(self.banned) or self.request.repetition_penalty != 1.0

    def finish(self, candidate: int, completion: Completion) -> bool:
        """Keeps a candidate's completion; whether it was the last one."""
        self.completions[candidate] = completion
        return all(self.completions)


def tokenize_request(network: Network, request: Request, length: int) -> TokenizedRequest:
    """
    Args:
        length: positions that the visual tokens, the prompt and the answer may take up.
    Raises:
        ConfigError: they need more.
    """
    prompt = network.prompt_ids(request.prompt + request.prefix)
    require_room(network, prompt, request.max_tokens, length)
    return TokenizedRequest(
        request,
        prompt,
        network.qformer_row(request.qformer_text),
        banned_sequences(network.tokenizer, request.suppress),
        seeds=seeds_of(request),
        pending=deque(range(request.n)),
        completions=[None] * request.n,
    )


def require_room(network: Network, prompt: list[int], max_tokens: int, length: int) -> None:
    """Raises ConfigError for a prompt that does not fit into a slot together with its answer."""
    needed = network.num_queries + len(prompt) + max_tokens
    if needed > length:
        raise ConfigError(
            f"A prompt of {len(prompt)} tokens with max_tokens {max_tokens} needs {needed} positions; the engine has "
            f"{length}."
        )


def banned_sequences(tokenizer: PreTrainedTokenizerBase, words: tuple[str, ...]) -> list[list[int]]:
    """Token sequences of words that must not be said: as first words, behind a blank, and behind anything else."""

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    # SentencePiece puts a blank in front of every text, so a word without one is only found behind something.
    line = ids("\n")
    forms = [form for word in words for form in (ids(word), ids(f" {word}"), ids(f"\n{word}")[len(line) :])]
    return [list(form) for form in dict.fromkeys(map(tuple, forms)) if form]


def banned_tokens(sequences: list[list[int]], so_far: list[int]) -> list[int]:
    """Tokens that would complete a banned sequence now."""
    return [s[-1] for s in sequences if len(s) == 1 or so_far[len(so_far) - len(s) + 1 :] == s[:-1]]
