"""POPE: yes-or-no questions about what is and what is not in an image, from any source with annotations.

For each image as many present objects as absent ones. Absent are, by split: any (random), the most frequent ones of the
source (popular), those that most often come together with the present object of the same pair (adversarial). An object
that a caption names, and one whose special kinds are there, is not asked for as absent. Source: Li et al., "Evaluating
Object Hallucination in Large Vision-Language Models" (arXiv 2305.10355) §5; the format is that of its published files.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vigc.platform.quality.mentions import ObjectFinder
from vigc.platform.records import InputError
from vigc.platform.vocabulary import Vocabulary

SPLITS = ("random", "popular", "adversarial")
SPARE = 2  # times as many images are looked at closely as are wanted: captions may name what seemed absent


@dataclass(frozen=True, slots=True)
class Probe:
    """One line of a file."""

    question_id: int  # from 1
    image: str
    text: str
    label: str  # yes or no


@dataclass(frozen=True)
class Pope:
    """The probes of each split: yes and no taking turns, the images in the same order in all of them."""

    probes: dict[str, list[Probe]]
    num_images: int
    num_eligible: int  # images with enough objects that are there, and enough that are not


def build_pope(
    tables: Iterable[pa.Table],
    vocabulary: Vocabulary,
    *,
    num_images: int = 500,
    num_objects: int = 3,
    seed: int = 0,
    splits: Sequence[str] = SPLITS,
) -> Pope:
    """Reads the source once; the same images give the same probes, however they are ordered.

    Args:
        tables: of the schema MANIFEST.
        num_images: at most; a source may have fewer with enough objects.
        num_objects: present ones for each image, and as many absent ones.
    Raises:
        InputError: no image has enough objects.
    """
    seen = _Seen(vocabulary, num_objects, num_images * SPARE, seed)
    for table in tables:
        seen.add(table)
    finder = ObjectFinder(vocabulary)
    probes: dict[str, list[Probe]] = {split: [] for split in splits}
    chosen: list[tuple[_Image, list[str]]] = []
    for one in seen.first():
        absent = _absent(one, finder)
        if len(absent) >= num_objects and len(chosen) < num_images:
            chosen.append((one, absent))
    if not chosen:
        raise InputError(
            f"No image has {num_objects} different objects of the vocabulary {vocabulary.name} and lacks as many. "
            "Lower --num-objects, or name another vocabulary with --objects."
        )
    for one, absent in sorted(chosen, key=lambda pair: pair[0].image_id):
        chance = random.Random(f"{seed}/{one.image_id}")
        present = chance.sample(sorted(one.present), num_objects)
        any_of_them = chance.sample(absent, num_objects)
        for split in splits:
            refused = any_of_them if split == "random" else seen.likely(present, absent, split)
            made = probes[split]
            for there, not_there in zip(present, refused, strict=True):
                for category, label in ((there, "yes"), (not_there, "no")):
                    made.append(Probe(len(made) + 1, one.image_id, question_about(category), label))
    return Pope(probes, len(chosen), seen.num_eligible)


def write_probes(probes: Iterable[Probe], file: IO[str]) -> None:
    """Writes probes as JSON Lines."""
    for probe in probes:
        file.write(json.dumps(asdict(probe), ensure_ascii=False) + "\n")


def question_about(category: str) -> str:
    name = category.partition("/")[0]  # "monitor/tv"
    return f"Is there {'an' if name[0] in 'aeiou' else 'a'} {name} in the image?"


@dataclass(frozen=True, order=True)
class _Image:
    priority: int
    image_id: str
    present: frozenset[str] = field(compare=False)
    captions: tuple[str, ...] = field(compare=False)


class _Seen:
    """How often objects come, and come together, and the images that chance puts first."""

    def __init__(self, vocabulary: Vocabulary, num_objects: int, most: int, seed: int) -> None:
        self._vocabulary, self._num_objects, self._most, self._seed = vocabulary, num_objects, most, seed
        self._code = {category: number for number, category in enumerate(vocabulary.categories)}
        self._together: NDArray[np.float64] = np.zeros((len(self._code), len(self._code)))
        self._heap: list[tuple[int, str, _Image]] = []  # the worst first
        self.num_eligible = 0

    def add(self, table: pa.Table) -> None:
        annotated = table.filter(pc.is_valid(table["objects"]))
        names = pc.struct_field(pc.list_flatten(annotated["objects"].combine_chunks()), "category").to_pylist()
        lengths = pc.list_value_length(annotated["objects"]).to_pylist()
        there = np.zeros((annotated.num_rows, len(self._code)), np.float32)
        ids, captions = annotated["image_id"].to_pylist(), annotated["captions"].to_pylist()
        first = 0
        for row, length in enumerate(lengths):
            known = {self._vocabulary.category(name) for name in set(names[first : first + length])}
            present = frozenset(category for category in known if category is not None)
            first += length
            there[row, [self._code[category] for category in present]] = 1
            if len(present) >= self._num_objects and self._num_absent(present) >= self._num_objects:
                self.num_eligible += 1
                self._offer(ids[row], present, captions[row] or ())
        self._together += there.T @ there

    def first(self) -> Iterator[_Image]:
        yield from sorted(one for _, _, one in self._heap)

    def likely(self, present: Sequence[str], absent: Sequence[str], split: str) -> list[str]:
        """For each present object the absent one that the split asks for, each once."""
        frequency = np.diag(self._together)
        taken: list[str] = []
        for one in present:
            beside = self._together[self._code[one]] if split == "adversarial" else frequency

            def key(other: str, beside: Any = beside) -> tuple[float, float, str]:
                return -beside[self._code[other]], -frequency[self._code[other]], other

            taken.append(min((other for other in absent if other not in taken), key=key))
        return taken

    def _num_absent(self, present: frozenset[str]) -> int:
        return len(self._code) - len(self._vocabulary.true_of(present))

    def _offer(self, image_id: str, present: frozenset[str], captions: Sequence[str]) -> None:
        digest = hashlib.blake2b(f"{self._seed}/{image_id}".encode(), digest_size=8).digest()
        one = _Image(int.from_bytes(digest), image_id, present, tuple(captions))
        entry = (-one.priority, image_id, one)
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, entry)
        elif entry > self._heap[0]:
            heapq.heapreplace(self._heap, entry)


def _absent(one: _Image, finder: ObjectFinder) -> list[str]:
    """What can be asked for as not there, in the vocabulary's order."""
    known = one.present.union(*(finder.categories(caption) for caption in one.captions))
    may_be_there = finder.vocabulary.true_of(known) | finder.vocabulary.named_by(known)
    return [category for category in finder.vocabulary.categories if category not in may_be_there]
