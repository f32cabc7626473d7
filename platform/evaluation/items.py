"""Items, replies and scores: the vocabulary between the files of a benchmark, the models and the scorers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vigc.platform.records import AnswerStyle


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that a model is asked, once."""

    id: str  # unique in its benchmark
    image: str  # as the benchmark's file names it, or a name made for it
    uri: str
    question: str
    style: AnswerStyle
    truth: str  # JSON, for the benchmark's own scorer
    part: str = ""  # a part of the benchmark that gets metrics of its own
    candidates: list[str] = field(default_factory=list)  # where they are to be ranked


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model gave for an item. An image or a request that failed leaves the text empty and says why."""

    text: str = ""
    prompt: str = ""  # as it was said to the model
    logprobs: list[float] = field(default_factory=list)  # of the item's candidates: nats, summed over their tokens
    error: str | None = None

    @property
    def best(self) -> int | None:
        """The candidate that the model finds likeliest; the first of several."""
        return max(range(len(self.logprobs)), key=self.logprobs.__getitem__) if self.logprobs else None


SaveImage = Callable[[str, bytes], str]  # name and content to address


def no_place(name: str, content: bytes) -> str:
    raise ValueError(f"{name}: nowhere to put images")


@dataclass(frozen=True)
class Files:
    """Where a benchmark's files are, as the user named them."""

    questions: Path
    annotations: str | None = None
    images: str | None = None
    references: str | None = None  # LLaVA-Bench: the reference answers
    context: str | None = None  # LLaVA-Bench: what the judge is told of the image
    objects: str = "auto"  # CHAIR: the vocabulary
    save: SaveImage = no_place  # MMBench: images that the file itself holds


@dataclass(frozen=True, slots=True)
class Metric:
    """A ratio of sums, e.g. points over questions, before its interval is known."""

    name: str
    rows: Sequence[tuple[str, float, float]]  # (image, what is added above, what below)
    part: str = ""
    is_rate: bool = True


@dataclass
class Scored:
    """What a scorer found."""

    metrics: list[Metric]
    item_scores: dict[str, float] = field(default_factory=dict)  # item id -> its share in the headline metric
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


Answered = Sequence[tuple[Item, Reply]]
Options = dict[str, Any]
