"""Data for LLaVA-style models: all that is asked about one image, in one conversation.

A chat's image is most of its tokens, so questions about the same image are learnt together. Turns that belong
together keep their order; conversations that do not are drawn in another order each time.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from vigc.jobs.train.data import MakeRows, TrainingData
from vigc.model.training.recipe import Recipe
from vigc.platform.instructions import Instructions
from vigc.platform.records import InputError, Kind, RowError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# LLaVA-1.5's own request for a short answer (arXiv 2310.03744 §3.2).
SHORT = "Answer the question using a single word or phrase."
_TURN = pa.struct(
    [
        ("question", pa.string()),
        ("answers", pa.list_(pa.string())),
        ("weights", pa.list_(pa.float64())),
        ("kind", pa.string()),
        ("talk", pa.int32()),  # turns of one conversation have the same number
        ("place", pa.string()),
    ]
)
CHATS = pa.schema([("image", pa.string()), ("turns", pa.list_(_TURN))])


def read_chats(sets: Iterable[Instructions], *, max_turns: int) -> TrainingData:
    """Raises InputError for a set without records."""
    tables, described = [], []
    for instructions in sets:
        chats: list[dict[str, Any]] = []
        latest: dict[str, dict[str, Any]] = {}  # the chat of each image that is not full yet
        talks: dict[str, int] = {}
        num = 0
        for one in instructions:
            num += 1
            chat = latest.get(one.image)
            if chat is None or len(chat["turns"]) >= max_turns:
                chat = latest[one.image] = {"image": one.image, "turns": []}
                chats.append(chat)
            talk = talks.setdefault(one.place.rpartition(", turn ")[0] or one.place, len(talks))
            chat["turns"].append(
                {
                    "question": one.question,
                    "answers": list(one.answers),
                    "weights": list(one.weights),
                    "kind": one.kind.value,
                    "talk": talk,
                    "place": one.place,
                }
            )
        if not chats:
            raise InputError(f"Nothing to learn from: {instructions.describe()}.")
        tables.append(pa.Table.from_pylist(chats, schema=CHATS))
        described.append(f"{instructions.describe()}: {num:,} questions about {len(chats):,} images")
    return TrainingData(pa.concat_tables(tables), tuple(table.num_rows for table in tables), tuple(described))


class MakeChatRows(MakeRows):
    """Positions to rows of a ChatObjective."""

    def _row(self, records: pa.Table, entry: int, position: int) -> tuple[NDArray[np.uint8], list[str], list[str], str]:
        record = records.slice(entry // 2, 1).to_pylist()[0]
        rng = random.Random(f"{self._recipe.seed}/{position}")
        talks: dict[int, list[dict[str, Any]]] = {}
        for turn in record["turns"]:
            talks.setdefault(turn["talk"], []).append(turn)
        order = list(talks.values())
        rng.shuffle(order)
        turns = [turn for talk in order for turn in talk]
        questions = [asked(turn["question"], turn["kind"]) for turn in turns]
        answers = [rng.choices(turn["answers"], turn["weights"])[0] for turn in turns]
        pixels = self._image(record["image"], rng, [*questions, *answers], centred=True)
        if isinstance(pixels, RowError):
            place = record["turns"][0]["place"]
            empty = np.zeros((self._size, self._size, 3), dtype=np.uint8)
            return empty, [], [], f"{place}: {pixels.kind}: {pixels.message}"
        return self._array(pixels), questions, answers, ""


def asked(question: str, kind: str) -> str:
    """A question as the model hears it: those of knowledge sets have short answers, which it is told."""
    return f"{question}\n{SHORT}" if kind == Kind.KNOWLEDGE and SHORT not in question else question


def rows_of(recipe: Recipe) -> type[MakeRows]:
    return MakeChatRows if recipe.objective == "chat" else MakeRows
