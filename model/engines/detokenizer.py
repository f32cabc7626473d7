"""From token ids to text, one token at a time: the half of decoding that every engine shares."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from vigc.model.completion import Completion, Request
from vigc.model.sentences import END_MARKS, Unit, find_end
from vigc.platform.records import Stop

_STOP = {Unit.PARAGRAPH: Stop.PARAGRAPH, Unit.SENTENCE: Stop.SENTENCE, Unit.REFERENCE_SENTENCE: Stop.SENTENCE}
_PARTLY = "\ufffd"  # stands for the bytes of a character that is not complete


class Pieces:
    """What each token of a vocabulary adds to a text, found when it is first asked for.

    Tokens add the same text wherever they stand, save those that hold a part of a character. All is decoded behind an
    ordinary token, because some tokenizers drop a leading blank.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._before = list(tokenizer("a", add_special_tokens=False).input_ids)
        self._skipped = len(self._decode(self._before))
        self._found: dict[int, str] = {}

    def join(self, ids: list[int]) -> str:
        """The text of tokens that follow others."""
        if len(ids) != 1:
            return self._decode([*self._before, *ids])[self._skipped :]
        piece = self._found.get(ids[0])
        if piece is None:
            piece = self._found[ids[0]] = self._decode([*self._before, *ids])[self._skipped :]
        return piece

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


class Transcript:
    """What one request has decoded so far."""

    def __init__(self, pieces: Pieces, request: Request) -> None:
        self.request = request
        self.ids: list[int] = []
        self.text = ""
        self._pieces = pieces
        self._partly: list[int] = []  # tokens of a character that is not complete
        self._total_logprob = 0.0
        self._marks = END_MARKS[request.until]
        self._may_end = False

    def add(self, token: int, logprob: float, eos_id: int) -> Completion | None:
        """Takes the next token; returns the completion when it is the last."""
        self.ids.append(token)
        self._total_logprob += logprob
        if token == eos_id:
            return self._finished(Stop.END)
        self._extend(token)
        if self.request.stop_at and self.request.stop_at in self.text:
            self.text = self.text[: self.text.index(self.request.stop_at) + len(self.request.stop_at)]
            return self._finished(Stop.MARK)
        if self._may_end and len(self.ids) >= self.request.min_tokens:
            end = find_end(self.text, self.request.until, final=False)
            if end is not None:
                self.text = self.text[:end]
                return self._finished(_STOP[self.request.until])
        if len(self.ids) >= self.request.max_tokens:
            return self._finished(Stop.LENGTH)
        return None

    def _extend(self, token: int) -> None:
        self._partly.append(token)
        piece = self._pieces.join(self._partly)
        if not piece.endswith(_PARTLY):
            self._take(piece)

    def _take(self, piece: str) -> None:
        self.text += piece
        self._partly.clear()
        self._may_end = self._may_end or any(mark in piece for mark in self._marks)

    def _finished(self, stop: Stop) -> Completion:
        if self._partly and stop in (Stop.END, Stop.LENGTH):
            self._take(self._pieces.join(self._partly))
        return Completion(self.text, stop, len(self.ids), self._total_logprob / len(self.ids))
