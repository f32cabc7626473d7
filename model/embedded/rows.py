"""Scenes as rows to train on: a picture with several texts about it."""

from __future__ import annotations

import random

import numpy as np

from vigc.model.embedded.shape import IMAGE_SIZE
from vigc.model.prompts import load_pack
from vigc.model.scenes.drawing import render
from vigc.model.scenes.wording import CONVERSATION, ask, describe
from vigc.model.scenes.world import Split, make_scene
from vigc.model.training.objective import Row


def scene_rows(num: int, num_texts: int, *, seed: int = 11) -> list[Row]:
    """`num` scenes of the training split, each with a description and short questions, `num_texts` in all."""
    pack = load_pack()
    rows: list[Row] = []
    for index in range(num):
        scene, rng = make_scene(Split.TRAIN, seed, index), random.Random(index)
        asked = [qa for topic in CONVERSATION if (qa := ask(scene, topic, rng)) is not None]
        told = [describe(scene, rng), *asked][:num_texts]
        rows.append(
            {
                "pixels": np.asarray(render(scene, IMAGE_SIZE)),
                "prompts": [pack.vic_prompt("", qa.question) for qa in told],
                "targets": [f" {qa.answer}" for qa in told],
            }
        )
    return rows
