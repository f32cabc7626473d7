"""A data set of `vigc generate`: the question and the corrected answer, or where it is asked
for VIG's own, of every conversation that was kept."""

from __future__ import annotations

from collections.abc import Iterator

from vigc.platform.dataset.store import Store
from vigc.platform.instructions.fields import Origin, evenly
from vigc.platform.records import Instruction, Kind, RowStatus, Verdict


class DatasetDirectory:
    format = "dataset"

    def __init__(self, origin: Origin) -> None:
        """Raises StoreError when there is no data set."""
        self._origin = origin
        self._store = Store(origin.path)
        self._store.existing_passes()

    def describe(self) -> str:
        return f"dataset {self._origin.path}"

    def __iter__(self) -> Iterator[Instruction]:
        for row in self._store.rows(["image_id", "uri", "status", "conversations"]):
            if row["status"] != RowStatus.OK:
                continue
            # Where the images are now, when that is said; else where they were.
            image = row["uri"] if self._origin.images is None else row["image_id"]
            for spoken in row["conversations"]:
                if spoken["status"] != Verdict.KEPT:
                    continue
                kind = Kind(spoken["kind"])
                place = f"image {row['image_id']!r}, {kind}"
                question = spoken["question"] or spoken["instruction"]
                answer = spoken["vig_answer"] if self._origin.choice.answers == "vig" else spoken["answer"]
                yield self._origin.instruction(place, image, question, evenly([answer]), kind)
