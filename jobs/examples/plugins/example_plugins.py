"""One plug-in of each kind: a source, a filter, an export, a policy and a prompt pack.

`pip install jobs/examples/plugins` makes them known to vigc; `pyproject.toml` beside this file names them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from vigc.model.conversation.policy import Policy
from vigc.platform.exports import ExportRun, FileFormat
from vigc.platform.quality.filters import Filter, JudgedConversation
from vigc.platform.records import ImageRecord
from vigc.platform.sources.base import Source, in_tables


class AlbumSource(Source):
    """`--source album`: a JSON file that says {"folder": …, "pictures": [names]}."""

    name = "album"

    def __init__(self, place: str) -> None:
        self._file = Path(place).absolute()

    def describe(self) -> str:
        return f"album {self._file}"

    def tables(self) -> Iterator[pa.Table]:
        album = json.loads(self._file.read_text(encoding="utf-8"))
        folder = self._file.parent / album["folder"]
        return in_tables(ImageRecord(image_id=name, uri=str(folder / name)) for name in album["pictures"])


class Shouting(Filter):
    """`vigc filter DATA --also shouting`."""

    name = "shouting"
    template = "the answer is in capital letters"

    def rejects(self, talk: JudgedConversation) -> bool:
        return talk.answer.isupper()


def _write_captions(run: ExportRun, path: Path) -> int:
    lines = [f"{one.image_id}\t{answer}\n" for one in run.examples() for _, answer in one.turns]
    path.write_text("".join(lines), encoding="utf-8")
    return len(lines)


CAPTIONS = FileFormat(".tsv", _write_captions)  # `vigc export DATA --format captions`
SHORT = replace(Policy(), name="short", max_steps=2)  # `vigc generate … --policy short`
COUNTING = Path(__file__).with_name("counting.yaml")  # `vigc generate … --prompts counting`
