"""Questions, answers and descriptions that are true of a scene, in varied words.

Every text is written from the scene's ground truth and nothing else, so it can train a model and score one. Short
questions carry their key and the choices it competes with: an answer is right when the key is the only choice it names.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from vigc.model.scenes.world import AT_HOME, BACKGROUNDS, CATEGORIES, COLOURS, COMPANION, SIZES, Scene, SceneObject

# A place's name says row and column of the layout: "at the upper far left".
PLACES = tuple(
    f"at the {row} {column}"
    for row in ("top", "upper", "lower", "bottom")
    for column in ("far left", "left", "right", "far right")
)
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
WHERE = {
    "beach": "on a beach",
    "park": "in a park",
    "street": "on a street",
    "room": "in a room",
    "snowy field": "in a snowy field",
    "desert": "in a desert",
}
# category: (what people use it for, the same as an activity, what it is usually made of)
USES = {
    "ball": ("playing", "play with the ball", "rubber"),
    "boat": ("sailing", "go sailing in the boat", "wood"),
    "car": ("driving", "drive away in the car", "metal"),
    "chair": ("sitting", "sit down on the chair", "wood"),
    "clock": ("telling the time", "read the time from the clock", "metal"),
    "cup": ("drinking", "drink from the cup", "clay"),
    "fish": ("eating", "watch the fish", "flesh"),
    "flower": ("decorating", "smell the flower", "leaves"),
    "house": ("living", "live in the house", "stone"),
    "kite": ("flying", "fly the kite", "paper"),
    "tree": ("giving shade", "rest under the tree", "wood"),
    "umbrella": ("keeping dry", "stay dry under the umbrella", "cloth"),
}
_MOODS = {
    "beach": ("warm", "the sand and the water look like summer"),
    "park": ("mild", "the grass is green"),
    "street": ("mild", "the road is dry"),
    "room": ("comfortable", "the floor and the wall belong to a house"),
    "snowy field": ("cold", "snow covers the ground"),
    "desert": ("hot", "there is nothing but sand around"),
}


@dataclass(frozen=True, slots=True)
class QuestionAnswer:
    """One question about a scene with a true answer; `choices` is empty where no key decides."""

    topic: str
    question: str
    answer: str
    key: str = ""
    choices: tuple[str, ...] = ()
    about: tuple[SceneObject | str, ...] = ()  # what the question refers to: objects, or a category at large

    def is_right(self, answer: str) -> bool:
        """Whether the answer names the key and no other choice (longest choice first: "at the top left" is not "at the
        top").
        """
        pattern = "|".join(re.escape(c) for c in sorted(self.choices, key=len, reverse=True))
        return {m.lower() for m in re.findall(rf"\b(?:{pattern})\b", answer, re.IGNORECASE)} == {self.key}


def _article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _plural(category: str) -> str:
    return "fish" if category == "fish" else category + "s"


def _is(number: int) -> str:
    return "is" if number == 1 else "are"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def name_of(thing: SceneObject, scene: Scene, rng: random.Random, without: str = "") -> str | None:
    """A phrase such as "the red car" that means exactly this object and does not give away the attribute `without`."""
    forms: list[tuple[str, ...]] = [(), ("colour",), ("size",), ("size", "colour")]
    forms = [f for f in forms if without not in f]
    unique = [
        f
        for f in forms
        if sum(all(getattr(o, a) == getattr(thing, a) for a in (*f, "category")) for o in scene.objects) == 1
    ]
    if not unique:
        return None
    form = unique[0] if rng.random() < 0.7 else rng.choice(unique)
    return " ".join(["the", *(getattr(thing, a) for a in form), thing.category])


def _colour(scene: Scene, thing: SceneObject, rng: random.Random) -> QuestionAnswer | None:
    name = name_of(thing, scene, rng, without="colour")
    if name is None:
        return None
    question = rng.choice(
        (f"What color is {name}?", f"Which color does {name} have?", f"Can you tell me the color of {name}?")
    )
    return QuestionAnswer("colour", question, _capital(f"{name} is {thing.colour}."), thing.colour, COLOURS, (thing,))


def _position(scene: Scene, thing: SceneObject, rng: random.Random) -> QuestionAnswer | None:
    name = name_of(thing, scene, rng)
    if name is None:
        return None
    question = rng.choice(
        (f"Where is {name}?", f"In which part of the picture is {name}?", f"Where in the image can {name} be seen?")
    )
    place = PLACES[thing.cell]
    return QuestionAnswer("position", question, _capital(f"{name} is {place}."), place, PLACES, (thing,))


def _size(scene: Scene, thing: SceneObject, rng: random.Random) -> QuestionAnswer | None:
    name = name_of(thing, scene, rng, without="size")
    if name is None:
        return None
    question = rng.choice((f"Is {name} small or large?", f"How big is {name}?", f"What size does {name} have?"))
    return QuestionAnswer("size", question, _capital(f"{name} is {thing.size}."), thing.size, SIZES, (thing,))


def _count(scene: Scene, thing: SceneObject, rng: random.Random) -> QuestionAnswer:
    number = len(scene.objects)
    question = rng.choice(
        (
            "How many objects are in the picture?",
            "How many things can be seen here?",
            "What is the number of objects in this image?",
        )
    )
    return QuestionAnswer(
        "count",
        question,
        f"There {_is(number)} {NUMBERS[number]} object{'s' * (number != 1)} in the picture.",
        NUMBERS[number],
        NUMBERS,
    )


def _count_category(scene: Scene, thing: SceneObject, rng: random.Random) -> QuestionAnswer:
    """None, one or several of a category are asked about equally often, where the scene has them."""
    by_number: dict[int, list[str]] = {}
    for category in CATEGORIES:
        by_number.setdefault(min(2, scene.count(category)), []).append(category)
    category = rng.choice(by_number[rng.choice(sorted(by_number))])
    number, names = scene.count(category), _plural(category)
    question = rng.choice((f"How many {names} are there?", f"How many {names} does the picture show?"))
    counted = category if number == 1 else names
    return QuestionAnswer(
        "count of a category",
        question,
        f"There {_is(number)} {NUMBERS[number]} {counted}.",
        NUMBERS[number],
        NUMBERS,
        (category,),
    )


def _existence(scene: Scene, thing: SceneObject, rng: random.Random) -> QuestionAnswer:
    present = rng.random() < 0.5 or all(scene.count(category) for category in CATEGORIES)
    category = thing.category if present else _absent(scene, rng)
    what = _article(category)
    question = rng.choice(
        (f"Is there {what} in the picture?", f"Can you see {what} here?", f"Does the image show {what}?")
    )
    answer = f"Yes, there is {what} in the picture." if present else f"No, there is no {category} in the picture."
    return QuestionAnswer("existence", question, answer, "yes" if present else "no", ("yes", "no"), (category,))


def _absent(scene: Scene, rng: random.Random) -> str:
    """A category that is not there; mostly one that the scene makes likely."""
    there = {o.category for o in scene.objects}
    tempting = {COMPANION[c] for c in there if c in COMPANION} | set(AT_HOME[scene.background])
    candidates = sorted(tempting - there) if rng.random() < 0.5 else []
    return rng.choice(candidates or sorted(set(CATEGORIES) - there))


def _left_right(scene: Scene, thing: SceneObject, rng: random.Random) -> QuestionAnswer | None:
    return _relation(
        scene, thing, rng, "left or right", "column", ("left", "right"), ("to the left of", "to the right of")
    )


def _above_below(scene: Scene, thing: SceneObject, rng: random.Random) -> QuestionAnswer | None:
    return _relation(scene, thing, rng, "above or below", "row", ("above", "below"), ("above", "below"))


def _relation(
    scene: Scene,
    thing: SceneObject,
    rng: random.Random,
    topic: str,
    axis: str,
    keys: tuple[str, str],
    phrases: tuple[str, str],
) -> QuestionAnswer | None:
    others = [o for o in scene.objects if getattr(o, axis) != getattr(thing, axis)]
    if not others:
        return None
    other = rng.choice(others)
    name, other_name = name_of(thing, scene, rng), name_of(other, scene, rng)
    if name is None or other_name is None:
        return None
    index = int(getattr(thing, axis) > getattr(other, axis))
    first, second = phrases if rng.random() < 0.5 else phrases[::-1]
    question = rng.choice(
        (f"Is {name} {first} or {second} {other_name}?", f"Which is right: {name} is {first} or {second} {other_name}?")
    )
    answer = _capital(f"{name} is {phrases[index]} {other_name}.")
    return QuestionAnswer(topic, question, answer, keys[index], keys, (thing, other))


def _background(scene: Scene, thing: SceneObject, rng: random.Random) -> QuestionAnswer:
    question = rng.choice(
        ("Where was this picture taken?", "What kind of place is this?", "What is the background of the image?")
    )
    return QuestionAnswer(
        "background",
        question,
        f"The picture was taken {WHERE[scene.background]}.",
        WHERE[scene.background],
        tuple(WHERE.values()),
    )


def _what_is_there(scene: Scene, thing: SceneObject, rng: random.Random) -> QuestionAnswer:
    place = PLACES[thing.cell]
    question = rng.choice((f"What is {place}?", f"What can be seen {place}?", f"Which object is {place}?"))
    return QuestionAnswer(
        "what is there",
        question,
        _capital(f"{_described(thing)} is {place}."),
        thing.category,
        CATEGORIES,
        (thing,),
    )


def _described(thing: SceneObject) -> str:
    return _article(f"{thing.size} {thing.colour} {thing.category}")


_Writer = Callable[[Scene, SceneObject, random.Random], QuestionAnswer | None]
CONVERSATION: dict[str, _Writer] = {
    "colour": _colour,
    "position": _position,
    "existence": _existence,
    "count": _count,
    "left or right": _left_right,
    "size": _size,
    "what is there": _what_is_there,
    "above or below": _above_below,
    "count of a category": _count_category,
    "background": _background,
}


def ask(scene: Scene, topic: str, rng: random.Random) -> QuestionAnswer | None:
    """A question of this topic about a random object; None where the scene allows none."""
    things = list(scene.objects)
    rng.shuffle(things)
    return next((qa for thing in things if (qa := CONVERSATION[topic](scene, thing, rng)) is not None), None)


def striking(scene: Scene) -> SceneObject:
    """What catches the eye: the first large object in reading order, or the first of all."""
    return next((o for o in scene.objects if o.size == "large"), scene.objects[0])


def curious_question(scene: Scene) -> QuestionAnswer:
    """What somebody would ask first. Topic and phrase follow from the striking object's category and colour and from
    nothing else, so that one who sees it knows what to ask, and different pictures get different questions.
    """
    focus = striking(scene)
    topics = list(CONVERSATION)
    first = CATEGORIES.index(focus.category) + 3 * COLOURS.index(focus.colour)
    for step in range(len(topics)):
        rng = random.Random(f"{focus.category}/{focus.colour}")
        if (qa := CONVERSATION[topics[(first + step) % len(topics)]](scene, focus, rng)) is not None:
            return qa
    raise AssertionError("a question about the background can always be asked")


DESCRIBE = (
    "Can you describe this image in detail?",
    "What does the picture show?",
    "Please describe everything in the picture.",
    "What can you see in this image?",
    "Could you list all that is here?",
    "Which objects does this image hold?",
)


def describe(scene: Scene, rng: random.Random) -> QuestionAnswer:
    """A detailed description: the place and the count, every object in reading order, a closing. How it is asked for
    follows from the place.
    """
    sentences = [opening(scene.background, len(scene.objects), rng), *(say(o) for o in scene.objects), closing(rng)]
    return QuestionAnswer("detail", DESCRIBE[BACKGROUNDS.index(scene.background)], " ".join(sentences))


def opening(background: str, number: int, rng: random.Random) -> str:
    """The description's first sentence."""
    objects = f"{NUMBERS[number]} object{'s' * (number != 1)}"
    return rng.choice(
        (
            f"The picture was taken {WHERE[background]} and shows {objects}.",
            f"The image shows {objects} {WHERE[background]}.",
        )
    )


def say(thing: SceneObject) -> str:
    """A sentence of a description about one object."""
    place, what = PLACES[thing.cell], _described(thing)
    return f"There is {what} {place}." if thing.size == "large" else f"{_capital(place)} there is {what}."


def closing(rng: random.Random) -> str:
    """The description's last sentence."""
    return rng.choice(("Nothing else is in the picture.", "No other objects can be seen."))


def reason(scene: Scene, rng: random.Random) -> QuestionAnswer:
    """A question that needs a step beyond naming, answered in two or three sentences with the reason."""
    focus = striking(scene)
    name, place, where = name_of(focus, scene, rng), PLACES[focus.cell], WHERE[scene.background]
    mood, because = _MOODS[scene.background]
    words, activity = f"{focus.size} {focus.colour} {focus.category}", USES[focus.category][1]
    options = [
        (
            f"What could a person do {where} like this?",
            f"The picture was taken {where}. There is {_described(focus)} {place}, so a person could {activity}.",
        ),
        (
            "What is the weather probably like in this picture?",
            f"It is probably {mood}, because {because}. " + _weather_hint(scene),
        ),
        (
            "Which object would a visitor notice first, and why?",
            f"A visitor would notice the {words} {place} first. " + _why_noticed(scene, focus),
        ),
    ]
    if name is not None:
        options.append(
            (
                f"How would you help somebody to find {name}?",
                f"I would tell them to look {place}. "
                f"{_capital(name)} is {focus.size} and {focus.colour}. {_neighbour(scene, focus, rng)}",
            )
        )
    favourite = (CATEGORIES.index(focus.category) + COLOURS.index(focus.colour)) % len(options)
    question, answer = options[favourite]
    return QuestionAnswer("reasoning", question, answer.strip())


def _weather_hint(scene: Scene) -> str:
    if scene.count("umbrella"):
        return "The umbrella could also be needed for rain."
    if scene.count("kite"):
        return "The kite suggests that there is some wind."
    return "Nothing in the picture suggests rain or wind."


def _why_noticed(scene: Scene, focus: SceneObject) -> str:
    if len(scene.objects) == 1:
        return "It is the only object in the picture."
    if sum(o.size == "large" for o in scene.objects) == 1:
        return "It is the only large object in the picture."
    return f"It is {focus.size} and its {focus.colour} color stands out."


def _neighbour(scene: Scene, focus: SceneObject, rng: random.Random) -> str:
    relation = _left_right(scene, focus, rng) or _above_below(scene, focus, rng)
    return relation.answer if relation is not None else ""


def know(scene: Scene, rng: random.Random) -> QuestionAnswer:
    """A question that needs common knowledge about what is seen; the answer is a word or two."""
    thing = rng.choice(scene.objects)
    use, _, material = USES[thing.category]
    place, where = PLACES[thing.cell], WHERE[scene.background]
    about_thing, about_place = (thing,), ()
    question, key, choices, about = rng.choice(
        (
            (f"What is the object {place} used for?", use, [u[0] for u in USES.values()], about_thing),
            (
                f"What are things like the {thing.colour} object {place} usually made of?",
                material,
                [u[2] for u in USES.values()],
                about_thing,
            ),
            (f"How warm is it {where}?", _MOODS[scene.background][0], [m[0] for m in _MOODS.values()], about_place),
            (f"Which kind of place is shown behind the {thing.category}?", scene.background, list(WHERE), about_place),
        )
    )
    return QuestionAnswer("knowledge", question, key, key, tuple(dict.fromkeys(choices)), about)
