"""Scenes are what their annotations and texts say they are."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vigc.model.scenes import Split, make_scene, render, write_scenes
from vigc.model.scenes.wording import CONVERSATION, NUMBERS, PLACES, ask, curious_question, describe, know, reason
from vigc.model.scenes.world import BACKGROUNDS, CATEGORIES, EASY, GRID, HARD, MAX_OBJECTS, USUAL_COLOUR

SCENES = [make_scene(Split.TRAIN, 3, i) for i in range(400)]
CROWDED = [make_scene(Split.TRAIN, 3, i, min_objects=HARD[0], max_objects=HARD[1]) for i in range(400)]


def test_a_scene_is_a_pure_function_of_its_seed_and_index() -> None:
    assert [make_scene(Split.TRAIN, 3, i) for i in range(400)] == SCENES
    assert np.array_equal(np.asarray(render(SCENES[0], 64)), np.asarray(render(SCENES[0], 64)))


def test_training_and_held_out_scenes_never_meet() -> None:
    held_out = [make_scene(Split.HELD_OUT, 3, i) for i in range(400)]
    assert not {s.seed for s in SCENES} & {s.seed for s in CROWDED}
    assert not {s.seed for s in SCENES} & {s.seed for s in held_out}
    assert not {(s.background, s.objects) for s in SCENES} & {(s.background, s.objects) for s in held_out}


def test_objects_lie_inside_the_picture_in_distinct_cells() -> None:
    overlapping = 0
    for scene in [*SCENES, *CROWDED]:
        assert len({o.cell for o in scene.objects}) == len(scene.objects)
        for thing in scene.objects:
            x, y, width, height = thing.box
            assert min(x, y, 1 - x - width, 1 - y - height) >= 0
            assert int((y + height / 2) * GRID) * GRID + int((x + width / 2) * GRID) == thing.cell
        boxes = [o.box for o in scene.objects]
        overlapping += any(_overlap(a, b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert overlapping > 100


def test_scenes_hold_as_many_objects_as_are_asked_for() -> None:
    assert {len(s.objects) for s in SCENES} == set(range(EASY[0], EASY[1] + 1))
    assert {len(s.objects) for s in CROWDED} == set(range(HARD[0], HARD[1] + 1))
    with pytest.raises(ValueError, match="1 to 12 objects"):
        make_scene(Split.TRAIN, 3, 0, max_objects=MAX_OBJECTS + 1)
    with pytest.raises(ValueError, match="fewest first"):
        make_scene(Split.TRAIN, 3, 0, min_objects=6, max_objects=5)


def test_every_place_and_every_number_has_a_name_of_its_own() -> None:
    assert len(set(PLACES)) == GRID * GRID
    assert not [(a, b) for a in PLACES for b in PLACES if a != b and a in b]
    assert len(NUMBERS) == MAX_OBJECTS + 1


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return (
        abs(a[0] + a[2] / 2 - b[0] - b[2] / 2) < (a[2] + b[2]) / 2
        and abs(a[1] + a[3] / 2 - b[1] - b[3] / 2) < (a[3] + b[3]) / 2
    )


def test_the_prior_tempts_and_the_debiased_scenes_break_it() -> None:
    def share_usual(debiased: bool) -> float:
        things = [o for i in range(600) for o in make_scene(Split.TRAIN, 5, i, debiased=debiased).objects]
        return sum(o.colour == USUAL_COLOUR[o.category] for o in things) / len(things)

    assert share_usual(False) > 0.4
    assert share_usual(True) < 0.2


def test_every_answer_is_right_by_its_own_rule_and_wrong_with_another_key() -> None:
    for scene in [*SCENES[:150], *CROWDED[:50]]:
        rng = random.Random(scene.seed)
        for topic in CONVERSATION:
            if (qa := ask(scene, topic, rng)) is None:
                continue
            assert qa.is_right(qa.answer), qa
            wrong = next(c for c in qa.choices if c != qa.key and qa.key not in c)
            assert not qa.is_right(wrong), qa
            assert not qa.is_right(f"{qa.answer} {wrong}"), qa


def test_texts_are_true_of_the_scene() -> None:
    for scene in [*SCENES[:150], *CROWDED[:50]]:
        text = describe(scene, random.Random(1)).answer
        for thing in scene.objects:
            assert f"{thing.size} {thing.colour} {thing.category}" in text
        absent = set(CATEGORIES) - {o.category for o in scene.objects}
        assert not [c for c in absent if f" {c} " in text]
        assert not [b for b in BACKGROUNDS if b != scene.background and b in text]


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("limits", [EASY, HARD])
def test_no_opening_and_no_topic_has_more_than_three_tenths_of_the_questions(
    limits: tuple[int, int], debiased: bool
) -> None:
    scenes = [
        make_scene(Split.TRAIN, 3, i, debiased=debiased, min_objects=limits[0], max_objects=limits[1])
        for i in range(1000)
    ]
    curious = [curious_question(s) for s in scenes]
    assert len({q.topic for q in curious}) == len(CONVERSATION)
    assert _largest(q.topic for q in curious) < 0.3
    assert _largest(_opening(q.question) for q in curious) < 0.3
    rng = random.Random(0)
    assert _largest(_opening(describe(s, rng).question) for s in scenes) < 0.3
    assert all(reason(s, rng).answer and know(s, rng).key for s in scenes[:50])


def _opening(question: str) -> str:
    return " ".join(question.split()[:2])


def _largest(values: Iterable[str]) -> float:
    counts = Counter(values)
    return max(counts.values()) / counts.total()


def test_what_is_asked_follows_from_what_catches_the_eye() -> None:
    """The drawing's noise, the boxes and the seed of a scene do not matter."""
    for scene in SCENES[:50]:
        things = tuple(replace(o, box=(0, 0, 0.1, 0.1)) for o in scene.objects)
        assert (
            curious_question(replace(scene, seed="another", objects=things)).question
            == curious_question(scene).question
        )


def test_nought_one_and_several_of_a_category_are_asked_about() -> None:
    keys = Counter(ask(s, "count of a category", random.Random(s.seed)).key for s in CROWDED)  # type: ignore[union-attr]
    assert keys.most_common(1)[0][1] / len(CROWDED) < 0.45
    assert keys["no"] > 80
    assert keys["two"] > 60


def test_written_scenes_are_pictures_with_coco_annotations(tmp_path: Path) -> None:
    write_scenes(tmp_path, num=6, seed=11, size=96)
    document = json.loads((tmp_path / "annotations.json").read_text())
    assert {Path(i["file_name"]).suffix for i in document["images"]} == {".jpg", ".png"}
    names = {c["id"]: c["name"] for c in document["categories"]}
    for index, entry in enumerate(document["images"]):
        with Image.open(tmp_path / "images" / entry["file_name"]) as image:
            assert image.size == (96, 96)
        scene = make_scene(Split.HELD_OUT, 11, index)
        listed = [names[a["category_id"]] for a in document["annotations"] if a["image_id"] == entry["id"]]
        assert listed == [o.category for o in scene.objects]
    other = tmp_path / "again"
    write_scenes(other, num=6, seed=11, size=96)
    for file in sorted((tmp_path / "images").iterdir()):
        assert file.read_bytes() == (other / "images" / file.name).read_bytes()


def test_a_scene_that_holds_every_category_is_never_asked_about_an_absent_one() -> None:
    full = replace(CROWDED[0], objects=tuple(replace(SCENES[0].objects[0], category=c) for c in CATEGORIES))
    for seed in range(20):
        qa = ask(full, "existence", random.Random(seed))
        assert qa is not None
        assert qa.key == "yes"
