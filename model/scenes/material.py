"""The three sets of an experiment on scenes: labelled ones, unlabelled ones, and held-out ones with exact answers.

Labels are in LLaVA's form and questions in the form of an own question file, so an experiment on scenes reads what any
other would.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from vigc.model.scenes import Split, make_scene, write_scenes
from vigc.model.scenes.wording import CONVERSATION, ask, describe
from vigc.model.scenes.world import Scene

NUM_QUESTIONS = 3  # about each labelled scene


def write_labelled(out: Path, *, num: int, seed: int, min_objects: int, max_objects: int, request: str) -> Path:
    """Scenes with a description and NUM_QUESTIONS questions each, all true: OUT/images and OUT/labelled.json.

    Args:
        request: how a description is asked for.
    """
    scenes = _write(out, Split.TRAIN, num, seed, min_objects, max_objects)
    records: list[dict[str, Any]] = []
    for name, scene in scenes:
        rng = random.Random(f"{scene.seed}/told")
        topics = rng.sample(list(CONVERSATION), len(CONVERSATION))
        asked = [qa for topic in topics if (qa := ask(scene, topic, rng)) is not None][:NUM_QUESTIONS]
        turns = [(request, describe(scene, rng).answer, "detail")]
        turns += [(qa.question, qa.answer, "conversation") for qa in asked]
        for number, (question, answer, kind) in enumerate(turns):
            messages = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
            records.append({"id": f"{name}/{number}:{kind}", "image": name, "conversations": messages})
    return _json(out / "labelled.json", json.dumps(records, indent=1))


def write_held_out(out: Path, *, num: int, seed: int, min_objects: int, max_objects: int) -> Path:
    """Held-out scenes with a question of every topic: OUT/images, OUT/annotations.json and OUT/questions.jsonl. Right
    is the true sentence, or the word that decides it.
    """
    lines = []
    for name, scene in _write(out, Split.HELD_OUT, num, seed, min_objects, max_objects):
        rng = random.Random(f"{scene.seed}/asked")
        for topic in CONVERSATION:
            if (qa := ask(scene, topic, rng)) is not None:
                line = {"image": name, "question": qa.question, "answers": [qa.answer, qa.key], "type": topic}
                lines.append(json.dumps(line | {"id": f"{name}/{topic}"}))
    return _json(out / "questions.jsonl", "\n".join(lines) + "\n")


def write_unlabelled(out: Path, *, num: int, seed: int, min_objects: int, max_objects: int) -> Path:
    """Scenes without any annotation: OUT/images alone."""
    _write(out, Split.TRAIN, num, seed, min_objects, max_objects)
    (out / "annotations.json").unlink(missing_ok=True)
    return out / "images"


def _write(out: Path, split: Split, num: int, seed: int, min_objects: int, max_objects: int) -> list[tuple[str, Scene]]:
    write_scenes(out, num=num, seed=seed, split=split, min_objects=min_objects, max_objects=max_objects, size=160)
    return [
        (
            f"{index:06d}.{'png' if index % 5 == 4 else 'jpg'}",
            make_scene(split, seed, index, min_objects=min_objects, max_objects=max_objects),
        )
        for index in range(num)
    ]


def _json(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path
