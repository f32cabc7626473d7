"""Preference pairs: the corrected answer is chosen, VIG's is rejected, where the two differ in truth.

They do where the rejected text names absent objects that the chosen one does not, and the chosen names none that the
rejected does not; where objects were not measured, where the chosen text's worst sentence is better grounded by
MIN_GAIN. Other differences (style, length) are no preference that anyone holds, so such pairs are left out and counted.

`sentence` makes shorter pairs: the corrected answer up to a place, and there its own next sentence against VIG's untrue
one. What both begin with cancels in DPO's objective, so the gradient is that of the one sentence.
The layout is trl's, conversational with images. Source: trl, docs/dataset_formats; HA-DPO (arXiv 2311.16839).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import StrEnum
from typing import Any

import pyarrow as pa

from vigc.platform.exports import huggingface
from vigc.platform.exports.examples import Example, clean, question_of
from vigc.platform.exports.huggingface import IMAGE_ID, IMAGES_COLUMN, MESSAGES, Columns
from vigc.platform.exports.images import ImageFile
from vigc.platform.storage import NewFolder

MIN_GAIN = 0.5  # nats per token
NO_VIG, NO_DIFFERENCE, NOT_MEASURED = "without VIG's answer", "as true before as after", "not measured"

COLUMNS: Columns = {
    "images": IMAGES_COLUMN,
    "prompt": (MESSAGES, "the image and the question"),
    "chosen": (MESSAGES, "the corrected answer"),
    "rejected": (MESSAGES, "VIG's answer"),
    "id": (pa.string(), "of the pair"),
    "image_id": IMAGE_ID,
    "kind": (pa.string(), "what the question is about"),
    "because": (pa.string(), "objects or grounding: what tells the two apart"),
    "objects_absent": (pa.list_(pa.string()), "what the rejected text names and is not annotated; null: not measured"),
}

Sentences = Sequence[Mapping[str, Any]]


class Per(StrEnum):
    """What is compared."""

    ANSWER = "answer"
    SENTENCE = "sentence"


@dataclass(frozen=True, slots=True)
class Pair:
    chosen: str
    rejected: str
    because: str  # "objects" or "grounding"
    objects_absent: list[str] | None


def with_pairs(examples: Iterable[Example], per: Per, left_out: Counter[str]) -> Iterator[Example]:
    """The examples that give any; conversations that do not are counted by their reason."""
    for example in examples:
        found = [pairs_of(conversation, per) for conversation in example.conversations]
        left_out.update(why for why in found if isinstance(why, str))
        if any(not isinstance(one, str) for one in found):
            yield example


def pairs_of(conversation: Mapping[str, Any], per: Per) -> list[Pair] | str:
    """The pairs that one conversation gives, or why it gives none."""
    final, vig = conversation["sentences"], conversation["vig_sentences"]
    if not conversation["vig_answer"].strip() or not vig:
        return NO_VIG
    because = difference(final, vig)
    if because == NOT_MEASURED:
        return because
    if per is Per.SENTENCE:
        return list(_by_sentence(final, vig)) or NO_DIFFERENCE
    texts = clean(conversation["answer"]), clean(conversation["vig_answer"])
    if because is None or texts[0] == texts[1]:
        return NO_DIFFERENCE
    return [Pair(*texts, because, huggingface.absent(vig))]


def difference(final: Sentences, vig: Sentences) -> str | None:
    """ "objects" or "grounding" where the final text is truer, None where it is not, or NOT_MEASURED."""
    absent_final, absent_vig = huggingface.absent(final), huggingface.absent(vig)
    if absent_final is not None and absent_vig is not None:
        return "objects" if set(absent_final) < set(absent_vig) else None
    grounded = [[s["grounding"] for s in text if s["grounding"] is not None] for text in (final, vig)]
    if not all(grounded):
        return NOT_MEASURED
    return "grounding" if min(grounded[0]) - min(grounded[1]) >= MIN_GAIN else None


def _by_sentence(final: Sentences, vig: Sentences) -> Iterator[Pair]:
    """Where VIG's answer leaves the corrected one with an untrue sentence."""
    texts_final, texts_vig = ([clean(sentence["text"]) for sentence in text] for text in (final, vig))
    changes = SequenceMatcher(None, texts_vig, texts_final, autojunk=False).get_opcodes()
    for tag, i, i_end, j, j_end in changes:
        if tag not in ("replace", "delete"):
            continue
        for untrue in range(i, i_end):
            at = min(j + untrue - i, j_end)
            better = final[at : at + 1]  # none where the corrected answer ends
            before = " ".join(texts_final[:at])
            if not better and not before:
                continue
            if (because := difference(better, vig[untrue : untrue + 1])) in ("objects", "grounding"):
                chosen = " ".join(texts_final[: at + 1])
                rejected = f"{before} {texts_vig[untrue]}".strip()
                yield Pair(chosen, rejected, because, vig[untrue]["objects_absent"])


def rows(examples: Iterable[tuple[Example, ImageFile]], per: Per) -> Iterator[dict[str, Any]]:
    """Rows with the columns COLUMNS."""
    for example, image_file in examples:
        for conversation in example.conversations:
            found = pairs_of(conversation, per)
            question = clean(question_of(conversation))
            for number, pair in enumerate([] if isinstance(found, str) else found):
                prompt, chosen = huggingface.spoken(question, pair.chosen, with_image=True)
                _, rejected = huggingface.spoken(question, pair.rejected, with_image=True)
                yield {
                    "images": [huggingface.image(example, image_file)],
                    "prompt": [prompt],
                    "chosen": [chosen],
                    "rejected": [rejected],
                    "id": f"{example.id}:{number}" if per is Per.SENTENCE else example.id,
                    "image_id": example.image_id,
                    "kind": conversation["kind"],
                    "because": pair.because,
                    "objects_absent": pair.objects_absent,
                }


def write(
    examples: Iterable[tuple[Example, ImageFile]],
    folder: NewFolder,
    *,
    per: Per,
    shard_bytes: int = huggingface.SHARD_BYTES,
) -> int:
    """Returns how many pairs were written."""
    return huggingface.write_shards(rows(examples, per), COLUMNS, folder, shard_bytes)
