"""From token ids to text, one token at a time: the half of decoding that every engine shares."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from vigc.model.completion import Completion, Request
from vigc.model.sentences import Unit, find_end
from vigc.platform.records import Stop

_CONTEXT = 4  # prompt tokens that are decoded along, because some tokenizers drop a leading blank
_STOP = {Unit.PARAGRAPH: Stop.PARAGRAPH, Unit.SENTENCE: Stop.SENTENCE, Unit.REFERENCE_SENTENCE: Stop.SENTENCE}


@dataclass
class Transcript:
    """What one request has decoded so far."""

    tokenizer: PreTrainedTokenizerBase
    request: Request
    prompt_tail: list[int]
    ids: list[int] = field(default_factory=list)
    text: str = ""
    total_logprob: float = 0.0

    def __post_init__(self) -> None:
        self._window = list(self.prompt_tail[-_CONTEXT:])
        self._known = self._decode(self._window)

    def add(self, token: int, logprob: float, eos_id: int) -> Completion | None:
        """Takes the next token; returns the completion when it is the last."""
        self.ids.append(token)
        self.total_logprob += logprob
        if token == eos_id:
            return self._finished(Stop.END)
        self._extend(token)
        unit_end = (
            find_end(self.text, self.request.until, final=False) if len(self.ids) >= self.request.min_tokens else None
        )
        if unit_end is not None:
            self.text = self.text[:unit_end]
            return self._finished(_STOP[self.request.until])
        if len(self.ids) >= self.request.max_tokens:
            return self._finished(Stop.LENGTH)
        return None

    def _extend(self, token: int) -> None:
        self._window.append(token)
        decoded = self._decode(self._window)
        if decoded.endswith("\ufffd"):  # the bytes of a character that is not complete yet
            return
        self.text += decoded[len(self._known) :]
        self._window = self._window[-_CONTEXT:]
        self._known = self._decode(self._window)

    def _finished(self, stop: Stop) -> Completion:
        if stop is not Stop.SENTENCE and stop is not Stop.PARAGRAPH:
            self.text += self._decode(self._window)[len(self._known) :]
        return Completion(self.text, stop, len(self.ids), self.total_logprob / len(self.ids))

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def banned_sequences(tokenizer: PreTrainedTokenizerBase, words: tuple[str, ...]) -> list[list[int]]:
    """Token sequences of words that must not be said, with and without a blank in front."""
    forms = [form for word in words for form in (word, f" {word}")]
    sequences = [list(tokenizer(form, add_special_tokens=False).input_ids) for form in forms]
    return [s for s in sequences if s]


def banned_tokens(sequences: list[list[int]], so_far: list[int]) -> list[int]:
    """Tokens that would complete a banned sequence now."""
    return [s[-1] for s in sequences if len(s) == 1 or so_far[len(so_far) - len(s) + 1 :] == s[:-1]]
