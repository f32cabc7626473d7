"""The card of a Hugging Face dataset: what it holds, how it was made, its limits."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from vigc.platform.dataset.caution import caution
from vigc.platform.dataset.store import Store
from vigc.platform.exports.huggingface import Columns

_SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
_SIZE_NAMES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M")


def card(store: Store, columns: Columns, num_examples: int, left_out: Mapping[str, int], *, pairs: bool) -> str:
    passes = [
        {
            "number": one.number,
            "num_images": one.num_requested,
            "kinds": one.request["kinds"],
            "model": _model(one.request.get("model")),
            "seed": one.request.get("seed"),
        }
        for one in store.existing_passes()
    ]
    asked = [one.request.get("model") for one in store.existing_passes()]
    return _template().render(
        title="Preference pairs from VIG and VIC" if pairs else "Instruction data from VIG and VIC",
        caution=caution(store.existing_passes()),
        pairs=pairs,
        num_examples=num_examples,
        size_category=_SIZE_NAMES[bisect_right(_SIZES, num_examples)],
        columns={name: what for name, (_, what) in columns.items()},
        passes=passes,
        reads_once=any(isinstance(model, Mapping) and model.get("reads_image") == "once" for model in asked),
        left_out=left_out,
    )


def _model(asked: object) -> str | None:
    if not isinstance(asked, Mapping) or not (name := asked.get("name")):
        return None
    return f"{name}, served by {asked['server']}" if asked.get("server") else str(name)


@cache
def _template() -> Template:
    loader = FileSystemLoader(Path(__file__).with_name("templates"))
    return Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True).get_template("card.md")
