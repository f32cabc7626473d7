"""How answers to VQA questions are normalised and counted: the rules of OKVQA, VQAv2 and of VIGC's own code.

Ten people answered each question. `official` leaves each of them out in turn and takes the mean of min(1, n / 3), with
n the others that said the same; `plain` is min(1, k / 3) over all ten; `vigc` is min(1, (k / 10) / 0.3), which VIGC's
evaluation used. OKVQA's ten are five people's answers doubled, so two equal ones score 0.6, 0.667 and 0.667.
The normalisation is the VQA challenge's (arXiv 1505.00468), oddities included: a blank beside a mark, or a comma
between digits, anywhere in the answer makes that mark vanish instead of becoming a blank; "none" is 0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from vigc.platform.evaluation.items import Answered, Item, Metric, Reply, Scored

VARIANTS = ("official", "plain", "vigc")
MAX_POINTS = 32  # the published code hands a flag, whose value is 32, where a count of replacements is expected
_MARKS = tuple(';/[]"{}()=+\\_-><@`,?!')
_POINT = re.compile(r"\.(?!\d)")
_COMMA = re.compile(r"\d,\d")
_ARTICLES = frozenset({"a", "an", "the"})
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(number) for number, word in enumerate(_WORDS)} | {"none": "0"}
_CONTRACTED = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's i'd've i'm i've isn't it'd it'd've it'll let's ma'am mightn't mightn't've "
    "might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've she's should've shouldn't "
    "shouldn't've somebody'd somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's "
    "something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've they'll "
    "they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's "
    "where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all "
    "y'all'll y'all'd've you'd you'd've you'll you're you've"
)
_UNLISTED = frozenset({"lets", "shes", "somebodyd", "im", "ive", "id've", "i'dve"})  # those of I: never met, as I is i


def _contractions() -> dict[str, str]:
    """What the challenge's code mends: a contraction that lacks one apostrophe; of one it takes the apostrophe away."""
    found = {"somebody'd": "somebodyd"}
    for whole in _CONTRACTED.split():
        pieces = whole.split("'")
        for number in range(1, len(pieces)):
            form = "'".join(pieces[:number]) + "'".join(pieces[number:])
            if form not in _UNLISTED:
                found[form] = whole
    return found


_CONTRACTIONS = _contractions()


def normalise(answer: str) -> str:
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    words = [_NUMBERS.get(word, word) for word in _without_marks(text).lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _without_marks(text: str) -> str:
    has_comma = _COMMA.search(text) is not None
    changed = text
    for mark in _MARKS:
        vanishes = has_comma or f"{mark} " in text or f" {mark}" in text
        changed = changed.replace(mark, "" if vanishes else " ")
    return _POINT.sub("", changed, count=MAX_POINTS)


def matches(reply: str, answers: Sequence[str]) -> list[bool]:
    """Which of the answers a reply equals, both normalised."""
    said = normalise(reply)
    return [normalise(answer) == said for answer in answers]


def accuracy(equal: Sequence[bool], variant: str) -> float:
    """Of one reply.

    Args:
        equal: for each person, whether the reply is what that person said; at least one person.
    """
    k, num = sum(equal), len(equal)
    if variant == "plain":
        return min(1.0, k / 3)
    if variant == "vigc":
        return min(1.0, k / num / 0.3)
    if num == 1:
        return float(k)
    return sum(min(1.0, (k - one) / 3) for one in equal) / num


def truth_of(answers: Iterable[str], raw: Iterable[str] | None = None, **more: str) -> str:
    """What `score_vqa` reads."""
    return json.dumps({"answers": list(answers), "raw": list(raw) if raw is not None else None} | more)


def score_vqa(answered: Answered, variants: Sequence[str] = VARIANTS) -> Scored:
    """Metrics of all variants, over all questions and for each part; `official_raw` where answers stand twice."""
    rows: dict[tuple[str, str], list[tuple[str, float, float]]] = {}
    scored = Scored([])
    for item, reply in answered:
        for name, value in _points(item, reply, variants).items():
            for part in dict.fromkeys(("", item.part)):
                rows.setdefault((part, name), []).append((item.image, value, 1.0))
            if name == variants[0]:
                scored.item_scores[item.id] = value
    scored.metrics = [Metric(name, found, part) for (part, name), found in rows.items()]
    return scored


def _points(item: Item, reply: Reply, variants: Sequence[str]) -> dict[str, float]:
    truth = json.loads(item.truth)
    equal = matches(reply.text, truth["answers"])
    points = {variant: accuracy(equal, variant) for variant in variants}
    if truth["raw"] is not None:
        points["official_raw"] = accuracy(matches(reply.text, truth["raw"]), "official")
    return points
