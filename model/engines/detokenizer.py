"""From token ids to text, one token at a time: the half of decoding that every engine shares."""

from __future__ import annotations

import re
from itertools import groupby

from transformers import PreTrainedTokenizerBase

from vigc.model.completion import Completion, Request
from vigc.model.sentences import END_MARKS, Unit, find_end
from vigc.platform.records import Stop

_STOP = {Unit.PARAGRAPH: Stop.PARAGRAPH, Unit.SENTENCE: Stop.SENTENCE, Unit.REFERENCE_SENTENCE: Stop.SENTENCE}
_PARTLY = "\ufffd"  # stands for the bytes of a character that is not complete


_BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # how SentencePiece writes a token that is one byte


class Pieces:
    """What each token of a vocabulary adds to a text, found when it is first asked for.

    Tokens add the same text wherever they stand, save those that hold a part of a character. All is decoded behind an
    ordinary token, because some tokenizers drop a leading blank. SentencePiece spells a character that is no token in
    tokens of one byte each. A row of those is put together here, as SentencePiece does it: the tokenizers library gives
    up the whole row, its complete characters too, where one byte of it fits nowhere.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._before = list(tokenizer("a", add_special_tokens=False).input_ids)
        self._skipped = len(self._decode(self._before))
        self._found: dict[int, str] = {}
        bytes_ = {
            token: int(byte[1], 16) for word, token in tokenizer.get_vocab().items() if (byte := _BYTE.match(word))
        }
        self._bytes = bytes_ if len(bytes_) == 256 else {}

    def join(self, ids: list[int]) -> str:
        """The text of tokens that follow others."""
        if len(ids) != 1:
            return self._join(ids)
        piece = self._found.get(ids[0])
        if piece is None:
            piece = self._found[ids[0]] = self._join(ids)
        return piece

    def _join(self, ids: list[int]) -> str:
        parts = [(are_bytes, list(part)) for are_bytes, part in groupby(ids, self._bytes.__contains__)]
        return "".join(
            _characters(bytes(self._bytes[token] for token in part))
            if are_bytes
            else self._decode([*self._before, *part])[self._skipped :]
            for are_bytes, part in parts
        )

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _characters(spelt: bytes) -> str:
    """Each byte that is part of no whole character is marked."""
    return re.sub("[\udc80-\udcff]", _PARTLY, spelt.decode(errors="surrogateescape"))


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
