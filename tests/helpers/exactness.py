"""Whether an engine says what the reference says: texts that the reference engine made, and what differs from them.

Sums in another order give other roundings, and where the two best tokens are as good as equal, another text. So the
texts are kept with the places at which that was so: a difference is excused there, and nowhere else.

python tests/helpers/exactness.py FILE [NUM_SCENES]     # makes the texts of the embedded model
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from vigc.model import embedded
from vigc.model.benchmarks.embedded import held_out_scenes
from vigc.model.completion import Completion, Request
from vigc.model.conversation.policy import make_policy
from vigc.model.conversation.vigc import converse
from vigc.model.engines.base import NetworkEngine
from vigc.model.engines.reference import ReferenceEngine
from vigc.model.files.weight_files import find_weights, hash_files
from vigc.model.network import load_network
from vigc.model.prompts import load_pack
from vigc.model.scenes import render
from vigc.model.sentences import find_end
from vigc.platform.records import Kind, Stop

SEED = 17  # of the scenes
KINDS = (Kind.CONVERSATION, Kind.DETAIL, Kind.REASONING)  # take turns
SURE = 1e-4  # nats between the two best tokens, from which on a difference is an error


@dataclass(frozen=True)
class Unsure:
    """A token that could as well have been another: where its text is, and by how much it was the better."""

    start: int
    end: int
    gap: float


@dataclass(frozen=True)
class Said:
    """One answer of the model, up to where its request ends, and what was unsure in it."""

    text: str
    unsure: list[Unsure]


@dataclass(frozen=True)
class Difference:
    """The first of a conversation; what follows it has another beginning."""

    scene: int
    request: int
    expected: str
    found: str
    gap: float | None  # of the token in question, where it was unsure


@dataclass(frozen=True)
class Comparison:
    num_equal: int
    excused: list[Difference]
    wrong: list[Difference]


def record(num: int) -> list[list[Said]]:
    """What the embedded model says of held-out scenes in fp32, greedily: each conversation's requests in turn."""
    network = load_network(embedded.PATH, device="cpu")
    engine = ReferenceEngine(network)
    gaps: dict[tuple[int, Request], list[float]] = {}
    engine.gaps = gaps
    try:
        asked = asyncio.run(_ask(engine, range(num), num))
    finally:
        engine.close()

    def said(order: int, request: Request, completion: Completion) -> Said:
        text = _cut(request, completion)
        ids = network.tokenizer(completion.text, add_special_tokens=False, return_offsets_mapping=True)
        spans = [*ids["offset_mapping"], (len(completion.text), len(completion.text) + 1)]
        steps = gaps[order, request]
        # Where the text's own tokens are not those that were decoded, any place may be the one.
        places = spans if len(spans) == len(steps) else [(0, len(completion.text) + 1)] * len(steps)
        unsure = [Unsure(start, end, gap) for (start, end), gap in zip(places, steps, strict=True) if gap < SURE]
        return Said(text, unsure)

    return [[said(*one) for one in conversation] for conversation in asked]


def compare(
    engine: NetworkEngine, expected: Sequence[Sequence[Said]], order: Sequence[int] | None = None
) -> Comparison:
    """Has the same conversations with another engine, all at once, the images arriving in this order."""
    found = asyncio.run(_ask(engine, order or range(len(expected)), len(expected)))
    differences = [
        difference
        for scene, (wanted, got) in enumerate(zip(expected, found, strict=True))
        if (difference := _difference(scene, wanted, [_cut(request, text) for _, request, text in got])) is not None
    ]
    excused = [one for one in differences if one.gap is not None]
    return Comparison(len(expected) - len(differences), excused, [one for one in differences if one.gap is None])


async def _ask(engine: NetworkEngine, order: Sequence[int], num: int) -> list[list[tuple[int, Request, Completion]]]:
    """Each conversation's requests, with the number that the engine gave to the image."""
    pack, policy, scenes = load_pack(), make_policy("paper"), held_out_scenes(num, SEED)
    asked: list[list[tuple[int, Request, Completion]]] = [[] for _ in range(num)]

    async def talk(number: int) -> None:
        async with engine.image(np.asarray(render(scenes[number], engine.image_size))) as image:

            async def complete(request: Request) -> Completion:
                completion = await engine.complete(image, request)
                asked[number].append((image.order, request, completion))
                return completion

            await converse(complete, pack, KINDS[number % len(KINDS)], policy)

    await asyncio.gather(*(talk(number) for number in order))
    return asked


def _cut(request: Request, completion: Completion) -> str:
    end = find_end(completion.text, request.until, final=completion.stop is not Stop.LENGTH)
    return completion.text if end is None else completion.text[:end]


def _difference(scene: int, expected: Sequence[Said], found: Sequence[str]) -> Difference | None:
    for request, said in enumerate(expected):
        got = found[request] if request < len(found) else ""
        if got == said.text:
            continue
        both = zip(said.text, got, strict=False)
        place = next((i for i, (a, b) in enumerate(both) if a != b), min(len(said.text), len(got)))
        gaps = [one.gap for one in said.unsure if one.start <= place <= one.end]
        return Difference(scene, request, said.text, got, min(gaps, default=None))
    if len(found) > len(expected):
        return Difference(scene, len(expected), "", found[len(expected)], None)
    return None


def save(path: Path, said: list[list[Said]]) -> None:
    content = {
        "weights": hash_files(find_weights(embedded.PATH)),
        "conversations": [list(map(asdict, c)) for c in said],
    }
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> list[list[Said]]:
    """Raises ValueError where the texts are those of other weights."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["weights"] != hash_files(find_weights(embedded.PATH)):
        raise ValueError(f"{path} is of other weights. Make it again: python tests/helpers/exactness.py {path}")
    return [
        [Said(said["text"], [Unsure(**one) for one in said["unsure"]]) for said in conversation]
        for conversation in content["conversations"]
    ]


if __name__ == "__main__":
    save(Path(sys.argv[1]), record(int(sys.argv[2]) if len(sys.argv) > 2 else 100))
