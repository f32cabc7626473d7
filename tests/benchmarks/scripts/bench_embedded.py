"""How right the embedded model is on scenes it has never seen, beside baselines that do not look.

python tests/benchmarks/scripts/bench_embedded.py [--model FOLDER] [--num 1000] [--seed 1] [--json FILE]

VIG's own output is counted where it parses. Detailed descriptions are compared with what is there, for VIG and for VIC,
with length and recall beside the share of descriptions that name an absent object, since cutting must not look like
correcting. Both are about the same scenes, so their difference is tested pair by pair.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from vigc.jobs.bench.common import write_figures
from vigc.jobs.terminal import make_console
from vigc.model import embedded
from vigc.model.benchmarks.embedded import TopicScore, generate, held_out_scenes, score_questions
from vigc.model.conversation.policy import make_policy
from vigc.model.engines.base import NetworkEngine
from vigc.model.engines.continuous.replicas import continuous_engine
from vigc.model.network import load_network
from vigc.model.prompts import load_pack
from vigc.model.scenes import Scene
from vigc.model.scenes.world import CATEGORIES
from vigc.platform.records import Conversation, Kind

_QUESTIONS = ("accuracy", "parse_rate", "largest_opening")  # figures of the gold questions and of VIG's form


@dataclass(frozen=True, slots=True)
class DescriptionScore:
    """Detailed descriptions against the truth; the categories named count, in words of the scenes' own world."""

    chair_s: float  # share of descriptions naming at least one absent category
    chair_i: float  # share of named categories that are absent
    recall: float  # share of present categories that are named
    length: float  # mean number of words


@dataclass(frozen=True, slots=True)
class Change:
    """Descriptions of the same scenes before and after: how many lost their absent objects, how many gained some."""

    fixed: int
    broken: int

    @property
    def p_value(self) -> float:
        """Exact two-sided McNemar test: how likely so uneven a split is, were either as likely as the other."""
        total = self.fixed + self.broken
        tail = sum(math.comb(total, i) for i in range(min(self.fixed, self.broken) + 1))
        return min(1.0, float(2 * tail / 2**total))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--model", metavar="FOLDER", help="another model of the same world, instead of the shipped one")
    parser.add_argument("--num", type=int, default=1000, help="held-out scenes of each of the four sets")
    parser.add_argument("--seed", type=int, default=1, help="seed of the scenes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    given = parser.parse_args()
    measure(model=given.model, num=given.num, seed=given.seed, json_file=given.json)


def measure(*, model: str | None, num: int, seed: int, json_file: Path | None) -> None:
    """The embedded model on held-out scenes, easy and hard, with and without the prior it was trained under.

    Figures about questions bear no suffix for easy scenes and `_hard` for hard ones; figures about descriptions bear
    none for hard scenes, where there is something to correct, and `_easy` for easy ones.
    """
    engine = continuous_engine(load_network(model or embedded.PATH), num_slots=128)
    figures: dict[str, float | str] = {"seed": seed, "num_scenes": num}
    try:
        for hard in (False, True):
            for debiased in (False, True):
                scenes = held_out_scenes(num, seed, debiased=debiased, hard=hard)
                title = f"{num} held-out scenes of {'6 to 12' if hard else '1 to 5'} objects"
                title += ", without their usual company" * debiased
                for name, value in _measure_set(engine, scenes, title).items():
                    about_questions = name.startswith(_QUESTIONS)
                    level = "" if hard is not about_questions else "_hard" if hard else "_easy"
                    figures[name + level + "_debiased" * debiased] = value
    finally:
        engine.close()
    write_figures(json_file, figures)


def _measure_set(engine: NetworkEngine, scenes: list[Scene], title: str) -> dict[str, float]:
    pack, policy = load_pack(), make_policy("paper", one_shot=True)
    topics = asyncio.run(score_questions(engine, pack, make_policy("paper"), scenes))
    kinds = [Kind.DETAIL, Kind.CONVERSATION, Kind.REASONING, Kind.KNOWLEDGE]
    made = asyncio.run(generate(engine, pack, policy, scenes, kinds))
    described = {
        "vig": [row[0].vig_answer for row in made],
        "one_shot": [row[0].one_shot_answer or "" for row in made],
        "vic": [row[0].answer for row in made],
    }
    scores = {name: score_descriptions(scenes, texts) for name, texts in described.items()}
    change = compare(scenes, described["vig"], described["vic"])
    asked = sum(t.num_questions for t in topics)
    figures = {
        "parse_rate": parse_rate(made),
        "largest_opening": largest_opening([row[1].question for row in made]),
        "accuracy": sum(t.accuracy * t.num_questions for t in topics) / asked,
        "accuracy_worst_type": min(t.accuracy for t in topics),
        "fixed": float(change.fixed),
        "broken": float(change.broken),
        "p_value": change.p_value,
    }
    _print(title, topics, figures, scores)
    for name, score in scores.items():
        figures |= {f"{key}_{name}": getattr(score, key) for key in ("chair_s", "chair_i", "recall", "length")}
    return figures | {f"accuracy_{t.topic.replace(' ', '_')}": t.accuracy for t in topics}


def _print(
    title: str, topics: list[TopicScore], figures: dict[str, float], scores: dict[str, DescriptionScore]
) -> None:
    console = make_console()
    table = Table("gold questions", "asked", "right", "chance", "most frequent", title=title, title_justify="left")
    for t in topics:
        table.add_row(t.topic, str(t.num_questions), f"{t.accuracy:.1%}", f"{t.chance:.1%}", f"{t.majority:.1%}")
    table.add_row("all", str(sum(t.num_questions for t in topics)), f"{figures['accuracy']:.1%}", "", "", style="bold")
    console.print(table)
    table = Table("descriptions", "name an absent object", "absent of those named", "present ones named", "words")
    for name, label in (("vig", "VIG"), ("one_shot", "VIC in one go"), ("vic", "VIC")):
        score = scores[name]
        values = f"{score.chair_s:.1%}", f"{score.chair_i:.1%}", f"{score.recall:.1%}", f"{score.length:.0f}"
        table.add_row(label, *values)
    console.print(table)
    console.print(
        f"From VIG to VIC {figures['fixed']:.0f} descriptions lost their absent objects and {figures['broken']:.0f} "
        f"gained some (McNemar p = {figures['p_value']:.2g})."
    )
    console.print(
        f"VIG output that parses: {figures['parse_rate']:.1%}; "
        f"questions with the commonest first two words: {figures['largest_opening']:.1%}\n"
    )


def parse_rate(conversations: list[list[Conversation]]) -> float:
    """Share of VIG outputs that hold a question and one answer."""
    every = [c for row in conversations for c in row]
    return sum("unparsed" not in c.reasons for c in every) / len(every)


def score_descriptions(scenes: list[Scene], descriptions: list[str]) -> DescriptionScore:
    """Counts the categories each description names against those its scene holds."""
    absent = named_total = recalled = present_total = words = sentences_wrong = 0
    for scene, text in zip(scenes, descriptions, strict=True):
        named, present = named_categories(text), {o.category for o in scene.objects}
        absent += len(named - present)
        sentences_wrong += bool(named - present)
        named_total += len(named)
        recalled += len(named & present)
        present_total += len(present)
        words += len(text.split())
    return DescriptionScore(
        chair_s=sentences_wrong / len(scenes),
        chair_i=absent / max(1, named_total),
        recall=recalled / present_total,
        length=words / len(scenes),
    )


def compare(scenes: list[Scene], before: list[str], after: list[str]) -> Change:
    """Scene by scene, whether an absent object is named."""
    pairs = [(_is_wrong(s, b), _is_wrong(s, a)) for s, b, a in zip(scenes, before, after, strict=True)]
    return Change(pairs.count((True, False)), pairs.count((False, True)))


def _is_wrong(scene: Scene, text: str) -> bool:
    return bool(named_categories(text) - {o.category for o in scene.objects})


def largest_opening(questions: list[str]) -> float:
    """Share of the commonest first two words."""
    return Counter(" ".join(q.split()[:2]).lower() for q in questions).most_common(1)[0][1] / len(questions)


def named_categories(text: str) -> set[str]:
    """Categories of the scenes' world that a text names, in the singular or plural."""
    return {c for c in CATEGORIES if re.search(rf"\b{c}(?:s|es)?\b", text, re.IGNORECASE)}


if __name__ == "__main__":
    main()
