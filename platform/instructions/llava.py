"""LLaVA's instruction format: a list of `{id, image, conversations: [{from, value}]}`, read turn by turn.

For LLaVA-Instruct-150K, its three parts (conversation_58k, detail_23k, complex_reasoning_77k), LLaVA-1.5's mixture
(llava_v1_5_mix665k, whose 40,688 records without an image are skipped and counted), and what `vigc export --format
llava` writes. The image mark goes; each question with its answer becomes one instruction, without the turns before it.
Source: arXiv 2304.08485 §3; haotian-liu/LLaVA, docs/Finetune_Custom_Data.md and issue 657.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from vigc.platform.exports.examples import IMAGE_TOKEN
from vigc.platform.exports.llava import SPEAKERS
from vigc.platform.instructions.fields import Origin, evenly, kind_in_name
from vigc.platform.records import Instruction, Kind

# The requests of the detail part, which all ask for the image as a whole. The reasoning part asks about something in
# the image.
_ASKS_TO_DESCRIBE = re.compile(
    r"""
    ^(?:please\s|(?:can|could|would)\syou\s(?:please\s)?)*
    (?: (?:describe|portray|narrate|depict|characteri[sz]e|illustrate|summari[sz]e)\b
      | (?:elaborate|explain|analy[sz]e|break|walk|examine|clarify|write|give|provide|present|share)\b
        .*\b(?:descri\w+|details?|detailed|elements|aspects|contents?|depiction|narrative)\b )
    | ^what(?:'s|\sis|\sdo\syou|\scan\syou|\sare)\s
      (?:see|happening|going\son|this\s\w+\sabout|the\s(?:key|main)\selements|(?:in\s)?(?:this|the)\s(?:image|picture|photo))\b
      (?!\s(?:that|which|who)\b)
    """,
    re.VERBOSE | re.IGNORECASE,
)


class LlavaFile:
    format = "llava"

    def __init__(self, origin: Origin, content: Any) -> None:
        self._origin, self._content = origin, content
        self._kind = kind_in_name(origin.path.stem)
        self._num_text_only = sum(map(_is_text_only, content)) if isinstance(content, list) else 0

    def describe(self) -> str:
        skipped = f", {self._num_text_only:,} records without an image skipped" if self._num_text_only else ""
        return f"llava {self._origin.path}{skipped}"

    def __iter__(self) -> Iterator[Instruction]:
        for place, record in self._origin.records(self._content):
            if _is_text_only(record):
                continue
            image = self._origin.text(place, record, "image")
            pairs = self._pairs(place, record)
            kind = _kind_in_id(record.get("id")) or self._kind or _kind_of(pairs)
            for turn, (question, answer) in enumerate(pairs):
                here = place if len(pairs) == 1 else f"{place}, turn {2 * turn}"
                yield self._origin.instruction(here, image, question, evenly([answer]), kind)

    def _pairs(self, place: str, record: dict[str, Any]) -> list[tuple[str, str]]:
        turns = record.get("conversations")
        if not isinstance(turns, list) or not turns or len(turns) % 2:
            raise self._origin.fault(place, "needs 'conversations', a list of questions and answers in turn")
        values = []
        for number, turn in enumerate(turns):
            here = f"{place}, turn {number},"
            if not isinstance(turn, dict):
                raise self._origin.fault(here, "is not an object")
            if turn.get("from") != SPEAKERS[number % 2]:
                raise self._origin.fault(here, f"is from {turn.get('from')!r} instead of {SPEAKERS[number % 2]!r}")
            value = self._origin.text(here, turn, "value").strip()
            if number == 0:
                value = value.removeprefix(IMAGE_TOKEN).removesuffix(IMAGE_TOKEN)
            if IMAGE_TOKEN in value:
                raise self._origin.fault(here, f"holds {IMAGE_TOKEN} inside its text")
            values.append(value)
        return list(zip(values[::2], values[1::2], strict=True))


def _is_text_only(record: Any) -> bool:
    """Neither names an image nor marks the place of one; with the mark alone, it is a record that lost its image."""
    return isinstance(record, dict) and record.get("image") is None and IMAGE_TOKEN not in str(record)


def _kind_in_id(name: Any) -> Kind | None:
    """Our own export writes IMAGE:KIND."""
    last = name.rpartition(":")[2] if isinstance(name, str) and ":" in name else None
    return Kind(last) if last in set(Kind) else None


def _kind_of(pairs: list[tuple[str, str]]) -> Kind:
    """For the merged file, which does not say which part a record is from."""
    if len(pairs) > 1:
        return Kind.CONVERSATION
    return Kind.DETAIL if _ASKS_TO_DESCRIBE.search(pairs[0][0].strip()) else Kind.REASONING
