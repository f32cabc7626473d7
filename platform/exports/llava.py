"""LLaVA's instruction format: a JSON list of examples, each an image and the turns spoken about it.

`image` is the path below the folder that the images came from, which is what LLaVA's trainer calls `--image_folder`.
Source: haotian-liu/LLaVA, docs/Finetune_Custom_Data.md.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from vigc.platform.records import InputError, RowStatus, Verdict
from vigc.platform.storage import open_file

IMAGE_TOKEN = "<image>"
SPEAKERS = ("human", "gpt")


def write(rows: Iterable[Mapping[str, Any]], file: IO[str]) -> int:
    """Streams the examples of `rows` into `file`, one a line, and returns how many there were."""
    num_examples = 0
    file.write("[")
    for example in _examples(rows):
        file.write(",\n" if num_examples else "\n")
        json.dump(example, file, ensure_ascii=False)
        num_examples += 1
    file.write("\n]\n")
    return num_examples


def validate(path: str | Path, image_folder: str | Path | None = None) -> list[str]:
    """What would trip LLaVA's trainer, as sentences; with `image_folder`, also images that are not there."""
    folder, name = open_file(path)
    try:
        examples = json.loads(folder.read(name))
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file. Check the path.") from error
    except ValueError as error:
        return [f"The file is not JSON: {error}."]
    if not isinstance(examples, list):
        return ["The file is not a list of examples."]
    problems = [f"Example {number}: {fault}." for number, example in enumerate(examples) for fault in _faults(example)]
    if problems:
        return problems
    ids = Counter(example["id"] for example in examples)
    problems += [f"The id {name!r} comes {count} times." for name, count in ids.items() if count > 1]
    if image_folder is not None:
        images = sorted({example["image"] for example in examples})
        missing = [name for name in images if not Path(image_folder, name).is_file()]
        problems += [f"There is no image {name!r} in {image_folder}." for name in missing]
    return problems


def _examples(rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        if row["status"] != RowStatus.OK:
            continue
        for spoken in row["conversations"]:
            if spoken["status"] != Verdict.KEPT:
                continue
            yield {
                "id": f"{row['image_id']}:{spoken['kind']}",
                "image": row["image_id"],
                "conversations": [
                    {"from": "human", "value": f"{IMAGE_TOKEN}\n{_text(spoken['question'] or spoken['instruction'])}"},
                    {"from": "gpt", "value": _text(spoken["answer"])},
                ],
            }


def _text(text: str) -> str:
    """Without the image token: LLaVA puts the picture wherever it stands, so a second one breaks the example."""
    return text.replace(IMAGE_TOKEN, "").strip()


def _faults(example: Any) -> Iterator[str]:
    if not isinstance(example, dict):
        yield "is not an object"
        return
    for name in ("id", "image"):
        if not isinstance(example.get(name), str) or not example[name]:
            yield f"has no {name!r}"
    turns = example.get("conversations")
    if not isinstance(turns, list) or not turns or len(turns) % 2:
        yield "needs 'conversations', an even number of turns"
        return
    for number, turn in enumerate(turns):
        value = turn.get("value") if isinstance(turn, dict) else None
        if not isinstance(value, str) or not value.replace(IMAGE_TOKEN, "").strip():
            yield f"turn {number} says nothing"
            continue
        if turn.get("from") != SPEAKERS[number % 2]:
            yield f"turn {number} is from {turn.get('from')!r} instead of {SPEAKERS[number % 2]!r}"
        if value.count(IMAGE_TOKEN) != (1 if number == 0 else 0):
            yield f"turn {number} holds {IMAGE_TOKEN} {value.count(IMAGE_TOKEN)} times"
