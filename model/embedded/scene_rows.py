"""What is learnt from one scene: a row of numpy arrays and texts, a pure function of (seed, index).

Nothing here knows torch, so rows can be made wherever there is a free core. A row of the eyes holds labels for every
patch; a row of the words holds the texts of VIG and VIC about the scene, each with what it is about. VIC's answers are
begun, sometimes wrongly: what is true goes on behind the last place that was named, whatever was said before.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vigc.model.prompts import PromptPack
from vigc.model.scenes.drawing import render
from vigc.model.scenes.wording import (
    CONVERSATION,
    DESCRIBE,
    WHERE,
    QuestionAnswer,
    ask,
    closing,
    curious_question,
    describe,
    know,
    opening,
    reason,
    say,
)
from vigc.model.scenes.world import (
    BACKGROUNDS,
    CATEGORIES,
    COLOURS,
    EASY,
    GRID,
    HARD,
    MAX_OBJECTS,
    SIZES,
    Scene,
    SceneObject,
    Split,
    make_scene,
)
from vigc.model.sentences import split_sentences
from vigc.platform.records import Kind

IGNORE = -100  # label of what does not count
EMPTY = len(CATEGORIES)  # the category of nothing
PATCH_LABELS = {"category": EMPTY + 1, "colour": len(COLOURS), "size": len(SIZES), "cell": GRID * GRID}
SUBJECT_LABELS = {"category": EMPTY + 1, "cell": GRID * GRID, "colour": len(COLOURS), "size": len(SIZES)}
# How often VIC is asked about a topic, beside the others: what is hard to learn comes more often.
TOPIC_WEIGHTS = {
    "left or right": 3.0,
    "above or below": 3.0,
    "position": 1.5,
    "existence": 1.5,
    "count": 1.5,
    "what is there": 1.5,
    "count of a category": 1.5,
    "colour": 0.5,
    "size": 0.5,
    "background": 0.5,
}

CAPTION = "What does the picture show?"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class TextMixture:
    """The texts of one scene: one VIG description, and so many of these."""

    num_begun: int = 2  # VIC descriptions, begun at random
    num_curious: int = 1  # VIG questions
    num_questions: int = 10  # VIC questions
    num_thoughtful: int = 1  # reasoning or knowledge, VIG or VIC
    num_presence: int = 0  # questions whether an object is there, answered by yes or no alone
    whole: float = 0.3  # share of VIC descriptions that are learnt from the beginning to the end
    noise: float = 0.3  # share of begun descriptions in which something is wrong

    @property
    def num_texts(self) -> int:
        short = self.num_questions + self.num_presence
        return 1 + self.num_begun + self.num_curious + short + self.num_thoughtful


def training_scene(seed: int, index: int, *, hard_share: float = 0.6) -> Scene:
    """The scene number `index` of a seed: half of them debiased, a share of them hard."""
    rng = random.Random(f"{Split.TRAIN.value}/{seed}/{index}/mixture")
    fewest, most = HARD if rng.random() < hard_share else EASY
    return make_scene(Split.TRAIN, seed, index, debiased=rng.random() < 0.5, min_objects=fewest, max_objects=most)


def patch_labels(scene: Scene, num_patches: int) -> dict[str, np.ndarray]:
    """For each of num_patches x num_patches patches the category, colour, size and cell of the nearest object covering
    30 % of it; colour, size and cell are ignored where there is none.

    Returns:
        Each of PATCH_LABELS, (num_patches * num_patches,), int16, in reading order.
    """
    labels = {name: np.full((num_patches, num_patches), IGNORE, dtype=np.int16) for name in PATCH_LABELS}
    labels["category"][:] = EMPTY
    edges = np.arange(num_patches + 1) / num_patches
    for thing in sorted(scene.objects, key=lambda o: o.box[1] + o.box[3]):
        x, y, width, height = thing.box
        across = np.clip(np.minimum(edges[1:], x + width) - np.maximum(edges[:-1], x), 0, None) * num_patches
        down = np.clip(np.minimum(edges[1:], y + height) - np.maximum(edges[:-1], y), 0, None) * num_patches
        covered = np.outer(down, across) >= 0.3
        covered[int((y + height / 2) * num_patches), int((x + width / 2) * num_patches)] = True
        for name, value in _attributes(thing).items():
            labels[name][covered] = value
    return {name: grid.reshape(-1) for name, grid in labels.items()}


def make_vision_row(seed: int, index: int, *, image_size: int, patch_size: int) -> Row:
    """One scene for the eyes: `pixels` uint8 (size, size, 3), each of PATCH_LABELS int16 (num_patches,), `background`
    int16 ().
    """
    scene = training_scene(seed, index)
    return {
        "pixels": np.array(render(scene, image_size)),
        **patch_labels(scene, image_size // patch_size),
        "background": np.int16(BACKGROUNDS.index(scene.background)),
    }


def make_text_row(seed: int, index: int, *, image_size: int, pack: PromptPack, mixture: TextMixture) -> Row:
    """One scene for the words.

    Returns:
        `pixels` uint8 (size, size, 3); `prompts` and `targets`, num_texts each; `ends` bool (num_texts,): whether the
        target goes to the answer's end; `subjects` int16 (num_texts, 12, 4): category, cell, colour and size of what
        each text is about, in the order of mention; `counts` int16 (num_texts,): how many there are of it;
        `background` int16 ().
    """
    scene = training_scene(seed, index)
    rng = random.Random(f"{scene.seed}/texts")
    texts = _texts(scene, pack, mixture, rng)
    return {
        "pixels": np.array(render(scene, image_size)),
        "prompts": [t.prompt + t.begun for t in texts],
        "targets": [t.target for t in texts],
        "ends": np.array([t.ends for t in texts]),
        "subjects": np.stack([_subject_labels(t) for t in texts]),
        "counts": np.array([t.count for t in texts], dtype=np.int16),
        "background": np.int16(BACKGROUNDS.index(scene.background)),
    }


def make_caption_row(seed: int, index: int, *, image_size: int) -> Row:
    """One scene with its caption, for a model that learns to see: `pixels`, `prompts` and `targets` of one text. The
    caption lists what is there; nothing is asked, counted or placed.
    """
    scene = training_scene(seed, index)
    listed = ", ".join(f"a {thing.size} {thing.colour} {thing.category}" for thing in scene.objects)
    return {
        "pixels": np.array(render(scene, image_size)),
        "prompts": [CAPTION],
        "targets": [f"{listed} {WHERE[scene.background]}."],
    }


def make_chat_row(seed: int, index: int, *, image_size: int, pack: PromptPack, mixture: TextMixture) -> Row:
    """One scene for a model that is spoken to in a chat.

    Returns:
        `pixels` uint8 (size, size, 3); `prompts`, `begun` and `targets`, num_texts each: what is asked, how the answer
        begins already ("" mostly), and how it goes on; `ends` bool (num_texts,): whether the target goes to the
        answer's end. Half of the begun answers are told in the prompt, for servers that cannot go on with an answer.
    """
    scene = training_scene(seed, index)
    rng = random.Random(f"{scene.seed}/chats")
    texts = _texts(scene, pack, mixture, rng)
    for place, text in enumerate(texts):
        if text.begun and rng.random() < 0.5:
            texts[place] = replace(text, prompt=pack.chat.continuing(text.prompt, text.begun.strip()), begun="")
    return {
        "pixels": np.array(render(scene, image_size)),
        "prompts": [t.prompt for t in texts],
        "begun": [t.begun for t in texts],
        "targets": [t.target for t in texts],
        "ends": np.array([t.ends for t in texts]),
    }


def make_texts(seed: int, index: int, *, pack: PromptPack, mixture: TextMixture) -> tuple[list[str], list[str]]:
    """The prompts and targets of a scene alone, without a picture."""
    scene = training_scene(seed, index)
    texts = _texts(scene, pack, mixture, random.Random(f"{scene.seed}/texts"))
    return [t.prompt + t.begun for t in texts], [t.target for t in texts]


@dataclass(frozen=True, slots=True)
class _Text:
    prompt: str
    target: str
    ends: bool = True
    begun: str = ""  # of the answer: it stands between prompt and target
    about: tuple[SceneObject | str, ...] = ()  # objects, or a category at large
    listing: bool = False  # `about` is all that is still to be listed
    count: int = IGNORE


def _texts(scene: Scene, pack: PromptPack, mixture: TextMixture, rng: random.Random) -> list[_Text]:
    topics = list(CONVERSATION)
    weights = [TOPIC_WEIGHTS[topic] for topic in topics]
    texts = [_vig(pack, Kind.DETAIL, describe(scene, rng), rng, about=scene.objects, listing=True)]
    texts += [_begun_description(scene, pack, mixture, rng) for _ in range(mixture.num_begun)]
    curious = curious_question(scene)
    texts += [_vig(pack, Kind.CONVERSATION, curious, rng, about=curious.about) for _ in range(mixture.num_curious)]
    texts += [_presence(scene, pack, rng) for _ in range(mixture.num_presence)]
    while len(texts) < mixture.num_texts - mixture.num_thoughtful:
        qa = ask(scene, rng.choices(topics, weights)[0], rng)
        if qa is not None:
            texts.append(_question(scene, pack, qa, rng))
    return texts + [_thoughtful(scene, pack, rng) for _ in range(mixture.num_thoughtful)]


def _vig(pack: PromptPack, kind: Kind, qa: QuestionAnswer, rng: random.Random, **about: Any) -> _Text:
    prompts = pack.kind(kind)
    instruction = prompts.instruction
    if prompts.paraphrases and rng.random() < 0.25:
        instruction = rng.choice(prompts.paraphrases)
    whole = f" {pack.question_tag} {qa.question} {pack.answer_tag} {qa.answer}"
    count = len(about["about"]) if about.get("listing") else IGNORE
    if kind is Kind.KNOWLEDGE and rng.random() < 0.5:  # its first word is given
        word = qa.question.split()[0]
        return _Text(pack.worded(instruction, word), whole.removeprefix(f" {pack.begun(word)}".rstrip()))
    return _Text(instruction, whole, count=count, **about)


def _vic_prompt(pack: PromptPack, kind: Kind, question: str, rng: random.Random) -> str:
    prompts = pack.kind(kind)
    return pack.vic_prompt("" if rng.random() < 0.3 else prompts.instruction, question, prompts.style)


def _presence(scene: Scene, pack: PromptPack, rng: random.Random) -> _Text:
    qa = ask(scene, "existence", rng)
    assert qa is not None
    assert isinstance(qa.about[0], str)
    answer = pack.presence.yes if qa.key == "yes" else pack.presence.no
    return _Text(pack.presence.about(qa.about[0]), f" {answer}", about=qa.about, count=scene.count(qa.about[0]))


def _question(scene: Scene, pack: PromptPack, qa: QuestionAnswer, rng: random.Random) -> _Text:
    count = IGNORE
    if qa.topic == "count":
        count = len(scene.objects)
    elif qa.about and isinstance(qa.about[0], str):
        count = scene.count(qa.about[0])
    return _Text(_vic_prompt(pack, Kind.CONVERSATION, qa.question, rng), f" {qa.answer}", about=qa.about, count=count)


def _begun_description(scene: Scene, pack: PromptPack, mixture: TextMixture, rng: random.Random) -> _Text:
    prompt = _vic_prompt(pack, Kind.DETAIL, rng.choice(DESCRIBE), rng)
    if rng.random() < mixture.whole:
        whole = f" {describe(scene, rng).answer}"
        return _Text(prompt, whole, about=scene.objects, listing=True, count=len(scene.objects))
    number = rng.randint(0, len(scene.objects) + 1)  # sentences said: the opening, then objects
    said = list(scene.objects[: max(0, number - 1)])
    counted = len(scene.objects)
    if number and rng.random() < mixture.noise:
        said, counted = _with_errors(said, scene, rng), min(MAX_OBJECTS, max(1, counted + rng.randint(-1, 1)))
    behind = said[-1].cell if said else -1
    left = tuple(o for o in scene.objects if o.cell > behind)
    begun = [opening(scene.background, counted, rng), *(say(o) for o in said)] if number else []
    to_say = [say(o) for o in left] + [closing(rng)]
    if not number:
        to_say = [opening(scene.background, counted, rng), *to_say]
    # VIC keeps one sentence a step and is then asked again, so the next two are all that matters.
    target = "".join(f" {s}" for s in to_say[:2])
    said_so_far = "".join(f" {s}" for s in begun)
    return _Text(prompt, target, len(to_say) <= 2, said_so_far, left, True, len(left))


def _with_errors(said: list[SceneObject], scene: Scene, rng: random.Random) -> list[SceneObject]:
    """Some of what was said becomes wrong, is left out, or never was there."""
    wrong: list[SceneObject] = []
    for thing in said:
        chance = rng.random()
        if chance < 0.1:
            continue
        if chance < 0.2:
            wrong.append(replace(thing, category=rng.choice(CATEGORIES)))
        elif chance < 0.3:
            wrong.append(replace(thing, colour=rng.choice(COLOURS)))
        elif chance < 0.35:
            wrong.append(replace(thing, size=rng.choice(SIZES)))
        else:
            wrong.append(thing)
    taken = {o.cell for o in scene.objects}
    free = [cell for cell in range(wrong[-1].cell + 2 if wrong else 2) if cell not in taken and cell < GRID * GRID]
    if free and rng.random() < 0.4:
        ghost = SceneObject(
            rng.choice(CATEGORIES), rng.choice(COLOURS), rng.choice(SIZES), rng.choice(free), (0, 0, 0, 0)
        )
        wrong = sorted([*wrong, ghost], key=lambda o: o.cell)
    return wrong


def _thoughtful(scene: Scene, pack: PromptPack, rng: random.Random) -> _Text:
    if rng.random() < 0.5:
        qa = know(scene, rng)
        if rng.random() < 0.5:
            return _vig(pack, Kind.KNOWLEDGE, qa, rng)
        return _Text(pack.short_answer.format(question=qa.question), f" {qa.answer}", about=qa.about)
    qa = reason(scene, rng)
    if rng.random() < 0.5:
        return _vig(pack, Kind.REASONING, qa, rng)
    sentences = split_sentences(qa.answer)
    begun = "".join(f" {s}" for s in sentences[: rng.randint(0, len(sentences) - 1)])
    prompt = _vic_prompt(pack, Kind.REASONING, qa.question, rng)
    return _Text(prompt, f" {qa.answer}"[len(begun) :], begun=begun)


def _subject_labels(text: _Text) -> np.ndarray:
    labels = np.full((MAX_OBJECTS, len(SUBJECT_LABELS)), IGNORE, dtype=np.int16)
    for slot, subject in enumerate(text.about):
        attributes = {"category": CATEGORIES.index(subject)} if isinstance(subject, str) else _attributes(subject)
        for column, name in enumerate(SUBJECT_LABELS):
            labels[slot, column] = attributes.get(name, IGNORE)
    if text.listing and len(text.about) < MAX_OBJECTS:
        labels[len(text.about), 0] = EMPTY  # here the list ends
    return labels


def _attributes(thing: SceneObject) -> dict[str, int]:
    return {
        "category": CATEGORIES.index(thing.category),
        "colour": COLOURS.index(thing.colour),
        "size": SIZES.index(thing.size),
        "cell": thing.cell,
    }


def scene_rows(num: int, num_texts: int, *, image_size: int, pack: PromptPack, seed: int = 11) -> list[Row]:
    """`num` easy scenes, each with a description and short questions, `num_texts` in all: plain instruction data."""
    rows: list[Row] = []
    for index in range(num):
        scene, rng = make_scene(Split.TRAIN, seed, index), random.Random(index)
        asked = [qa for topic in CONVERSATION if (qa := ask(scene, topic, rng)) is not None]
        told = [describe(scene, rng), *asked][:num_texts]
        rows.append(
            {
                "pixels": np.array(render(scene, image_size)),
                "prompts": [pack.vic_prompt("", qa.question) for qa in told],
                "targets": [f" {qa.answer}" for qa in told],
            }
        )
    return rows
