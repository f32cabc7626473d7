"""How true descriptions of scenes are, where all is known: what VIC and each correction beyond it do to them.

python tests/benchmarks/scripts/bench_quality.py [--num 500] [--num-questions 200] [--seed 1] [--json FILE]

Three things are measured. Descriptions: CHAIR, recall and length for each way of making them, the accuracy of its
answers to gold questions, and its speed. Grounding: how well it finds the sentences that name an absent object. Word
lists: precision and recall on labelled sentences.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from vigc.jobs.bench.common import write_figures
from vigc.jobs.terminal import make_console
from vigc.platform.records import Kind

if TYPE_CHECKING:
    from vigc.model.conversation.policy import Policy
    from vigc.model.engines.base import NetworkEngine
    from vigc.model.prompts import PromptPack
    from vigc.model.scenes import Scene
    from vigc.platform.quality.chair import Chair, Estimate
    from vigc.platform.quality.mentions import ObjectFinder

LABELLED = Path(__file__).parents[2] / "platform/quality/mentions_frozen.jsonl"
BEST = "verify"  # the way that figures of "best" are of, chosen on other scenes than these
NUM_SLOTS = 128
KEYS = ("chair_s", "chair_i", "recall", "mean_words")


@dataclass(frozen=True)
class Way:
    """One way of making descriptions."""

    name: str
    label: str
    policy: Policy
    is_vig: bool = False  # VIG's answers of this policy are looked at, not the final ones

    @property
    def answers_questions(self) -> bool:
        """Gold questions are VIC's to answer, and there is nothing to choose from."""
        return not (self.is_vig or self.policy.choose)


@dataclass(frozen=True)
class QualityResult:
    chair: Chair
    accuracy: float | None  # of answers to gold questions
    images_per_s: float | None


class Steps:
    """What is being measured, how much of it is done, and the time left, on stderr."""

    def __init__(self, num: int) -> None:
        self._console = Console(stderr=True, highlight=False)
        columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("", total=num)
        self._num, self._begun, self._started = num, 0, time.monotonic()

    def begin(self, what: str) -> None:
        self._bar.start()
        self._bar.update(self._task, description=what, completed=self._begun)
        if not self._console.is_terminal:
            spent = time.monotonic() - self._started
            left = f", about {spent / self._begun * (self._num - self._begun):.0f} s left" if self._begun else ""
            self._console.print(f"{self._begun} of {self._num} done{left}; now: {what}", markup=False, soft_wrap=True)
        self._begun += 1

    def pause(self) -> None:
        """Leaves the terminal to others until the next step begins."""
        self._bar.stop()


def quality(*, num: int, num_questions: int, seed: int, json_file: Path | None) -> None:
    """See the module.

    Args:
        num: scenes to describe, of each of the two sets.
        num_questions: scenes with one gold question for every topic; 0: none.
    """
    from vigc.model import embedded
    from vigc.model.benchmarks.embedded import held_out_scenes
    from vigc.model.engines.continuous.replicas import continuous_engine
    from vigc.model.network import load_network
    from vigc.model.prompts import load_pack
    from vigc.platform.quality.mentions import ObjectFinder
    from vigc.platform.vocabulary import vocabulary_of

    steps = Steps(2 * (_num_steps(num_questions) + 1))
    figures: dict[str, Any] = {"seed": seed, "num_scenes": num, "num_question_scenes": num_questions}
    figures |= _mentions()
    annotated = held_out_scenes(200, seed)  # enough to have everything that scenes hold
    vocabulary = vocabulary_of(thing.category for scene in annotated for thing in scene.objects)
    if vocabulary is None:
        raise ValueError("scenes have categories")
    finder, pack = ObjectFinder(vocabulary), load_pack()
    engine = continuous_engine(load_network(embedded.PATH), num_slots=NUM_SLOTS)
    try:
        for debiased in (False, True):
            scenes = held_out_scenes(num, seed, debiased=debiased, hard=True)
            asked = held_out_scenes(num_questions, seed, debiased=debiased, hard=True)
            suffix = "_debiased" * debiased
            title = f"{num} held-out scenes of 6 to 12 objects" + ", without their usual company" * debiased
            outcomes = _outcomes(engine, pack, finder, scenes, asked, steps)
            steps.pause()
            _print_ways(title, outcomes)
            figures |= {f"{name}{suffix}": value for name, value in _figures(outcomes).items()}
            steps.begin("grounding")
            grounded = asyncio.run(_grounding(engine, pack, finder, scenes))
            steps.pause()
            _print_grounding(grounded)
            figures |= {f"{name}{suffix}": value for name, value in grounded.items()}
    finally:
        steps.pause()
        engine.close()
    write_figures(json_file, figures)


def _ways() -> list[Way]:
    from vigc.model.conversation.policy import make_policy

    paper = make_policy("paper")
    return [
        Way("vig", "VIG", paper, is_vig=True),
        Way("shipped", "VIC (shipped)", make_policy("shipped", num_beams=1, one_shot=False)),
        Way("vic", "VIC (paper)", paper),
        Way("choose", "+ choose", make_policy("paper", choose=True)),
        Way("candidates", "+ candidates", make_policy("paper", candidates=4)),
        Way("verify", "+ verify", make_policy("paper", verify=True)),
        Way("verify_choose", "+ verify, choose", make_policy("paper", verify=True, choose=True)),
        Way("verify_blank", "+ verify by blank", _by_blank()),
    ]


def _num_steps(num_questions: int) -> int:
    """Of a set of scenes, without grounding."""
    described = len({way.policy for way in _ways()})
    return described + sum(way.answers_questions for way in _ways()) * bool(num_questions)


def _by_blank() -> Policy:
    from vigc.model.conversation.grounding import Grounding
    from vigc.model.conversation.policy import make_policy

    return make_policy("paper", verify=True, grounding=Grounding.BLANK)


def _outcomes(
    engine: NetworkEngine, pack: PromptPack, finder: ObjectFinder, scenes: list[Scene], asked: list[Scene], steps: Steps
) -> dict[str, tuple[str, QualityResult]]:
    """By name: label and outcome of every way."""
    from vigc.model.benchmarks.embedded import generate, score_questions
    from vigc.platform.quality.chair import chair

    present = [{thing.category for thing in scene.objects} for scene in scenes]
    outcomes: dict[str, tuple[str, QualityResult]] = {}
    rows: dict[Policy, tuple[list[tuple[str, str]], float]] = {}
    for way in _ways():
        if way.policy not in rows:
            steps.begin(f"{way.label}, descriptions")
            started = time.perf_counter()
            made = asyncio.run(generate(engine, pack, way.policy, scenes, [Kind.DETAIL], finder.named))
            rate = len(scenes) / (time.perf_counter() - started)
            rows[way.policy] = [(talk.vig_answer, talk.answer) for (talk,) in made], rate
        texts, rate = rows[way.policy]
        accuracy = None
        if asked and way.answers_questions:
            steps.begin(f"{way.label}, questions")
            topics = asyncio.run(score_questions(engine, pack, way.policy, asked, finder.named))
            accuracy = sum(t.accuracy * t.num_questions for t in topics) / sum(t.num_questions for t in topics)
        found = chair(
            ((pair[0 if way.is_vig else 1], there) for pair, there in zip(texts, present, strict=True)), finder
        )
        outcomes[way.name] = way.label, QualityResult(found, accuracy, None if way.is_vig else rate)
    return outcomes


def _figures(outcomes: dict[str, tuple[str, QualityResult]]) -> dict[str, float | None]:
    """One flat object; `best` repeats the figures of BEST."""
    figures: dict[str, float | None] = {}
    for name, (_, outcome) in [*outcomes.items(), ("best", outcomes[BEST])]:
        for key in KEYS:
            estimate: Estimate | None = getattr(outcome.chair, key)
            figures[f"{key}_{name}"] = None if estimate is None else estimate.value
        figures[f"accuracy_{name}"] = outcome.accuracy
        figures[f"images_per_s_{name}"] = outcome.images_per_s
    for name in ("vic", "best"):
        before, after = figures["chair_s_vig"], figures[f"chair_s_{name}"]
        figures[f"chair_s_drop_{name}"] = None if not before or after is None else 1 - after / before
    return figures


async def _grounding(
    engine: NetworkEngine, pack: PromptPack, finder: ObjectFinder, scenes: list[Scene]
) -> dict[str, Any]:
    """AUROC and average precision of finding sentences that name an absent object, among those that name any."""
    import numpy as np

    from vigc.model.conversation.grounding import Grounding, make_grounder
    from vigc.model.conversation.policy import make_policy
    from vigc.model.conversation.vigc import converse
    from vigc.model.scenes import render
    from vigc.platform.quality.ranking import auroc, average_precision

    scores: dict[str, list[tuple[bool, float]]] = {}
    policy = make_policy("paper")

    async def measure(scene: Scene) -> None:
        present = {thing.category for thing in scene.objects}
        async with engine.image(np.asarray(render(scene, engine.image_size))) as image:
            talk = await converse(lambda request: engine.complete(image, request), pack, Kind.DETAIL, policy)
            prompt = pack.vic_prompt(talk.instruction, talk.question)
            methods = {
                method.value: make_grounder(method, engine, image, pack, finder.named)
                for method in (Grounding.ASKED, Grounding.BLANK)
            }
            for name, sentences in (("vig", talk.vig_sentences), ("vic", talk.sentences)):
                texts = [one.text for one in sentences]
                named = [finder.categories(text) for text in texts]
                measured: dict[str, Sequence[float | None]] = {
                    method: await grounder.measure(prompt, texts) for method, grounder in methods.items() if grounder
                }
                measured["likelihood"] = await _likelihoods(engine, image, prompt, texts)
                measured["position"] = [-float(place) for place in range(len(texts))]
                for method, values in measured.items():
                    pairs = [
                        (not set(objects) <= present, -value)
                        for objects, value in zip(named, values, strict=True)
                        if objects and value is not None
                    ]
                    scores.setdefault(f"{method}_{name}", []).extend(pairs)

    await asyncio.gather(*(measure(scene) for scene in scenes))
    figures: dict[str, Any] = {}
    for key, pairs in sorted(scores.items()):
        method, _, answer = key.rpartition("_")
        figures[f"num_sentences_{answer}"] = len(pairs)
        figures[f"num_untrue_sentences_{answer}"] = sum(is_wrong for is_wrong, _ in pairs)
        figures[f"{method}_auroc_{answer}"] = auroc(pairs)
        figures[f"{method}_ap_{answer}"] = average_precision(pairs)
    return figures | {"grounding_auroc": figures["asked_auroc_vig"], "grounding_ap": figures["asked_ap_vig"]}


async def _likelihoods(engine: NetworkEngine, image: Any, prompt: str, texts: Sequence[str]) -> list[float | None]:
    """Mean log-probability of each sentence behind those before it, in nats per token."""
    before = ["".join(f" {text}" for text in texts[:place]) for place in range(len(texts))]
    scored = await asyncio.gather(
        *(engine.score(image, prompt + said, f" {text}") for said, text in zip(before, texts, strict=True))
    )
    return [sum(token.logprob for token in one) / len(one) if one else None for one in scored]


def _mentions() -> dict[str, Any]:
    """Precision and recall of the word lists on the labelled sentences beside the project's tests."""
    from vigc.platform.quality.mentions import ObjectFinder
    from vigc.platform.vocabulary import load_vocabulary

    finders: dict[str, Callable[[str], list[str]]] = {}
    both = found = right = num = 0
    for line in LABELLED.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        vocabulary, named = entry["vocabulary"], set(entry["named"])
        if vocabulary not in finders:
            finders[vocabulary] = ObjectFinder(load_vocabulary(vocabulary)).categories
        said = set(finders[vocabulary](entry["text"]))
        num, both, found, right = num + 1, both + len(said & named), found + len(said), right + len(named)
    precision, recall = both / found, both / right
    make_console().print(
        f"Objects named, in {num} labelled sentences: precision {precision:.3f}, recall {recall:.3f}\n"
    )
    return {"mention_precision": precision, "mention_recall": recall, "num_labelled": num}


def _print_ways(title: str, outcomes: dict[str, tuple[str, QualityResult]]) -> None:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    headings = ("descriptions", "absent named", "of all named", "present named", "words", "right", "img/s")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for label, outcome in outcomes.values():
        rates = [_percent(getattr(outcome.chair, key)) for key in KEYS[:3]]
        words = outcome.chair.mean_words
        table.add_row(
            label,
            *rates,
            "-" if words is None else f"{words.value:.0f}",
            "-" if outcome.accuracy is None else f"{outcome.accuracy:.1%}",
            "-" if outcome.images_per_s is None else f"{outcome.images_per_s:.1f}",
        )
    console = make_console()
    console.print(table)
    console.print(
        "Descriptions that name an absent object (CHAIR_s), absent ones of all objects named (CHAIR_i), present ones "
        "that are named (recall), each with a 95 % interval; gold questions answered right.",
        style="dim",
    )
    figures = _figures(outcomes)
    for name, label in (("vic", "VIC"), ("best", f"VIC with {BEST}")):
        drop, recall, before = figures[f"chair_s_drop_{name}"], figures[f"recall_{name}"], figures["recall_vig"]
        if drop is not None and recall is not None and before:
            console.print(
                f"{label}: {drop:.0%} fewer descriptions name an absent object, at {recall / before:.0%} of VIG's "
                "recall."
            )
    console.print()


def _percent(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    return f"{estimate.value:.1%} ({100 * estimate.low:.0f}–{100 * estimate.high:.0f})"


def _print_grounding(figures: dict[str, Any]) -> None:
    table = Table("finding sentences that name an absent object", "VIG: AUROC", "AP", "VIC: AUROC", "AP")
    names = {
        "asked": "asked about their objects",
        "blank": "against a blank image",
        "likelihood": "likelihood alone",
        "position": "place in the answer",
    }
    for method, label in names.items():
        values = [figures[f"{method}_{figure}_{answer}"] for answer in ("vig", "vic") for figure in ("auroc", "ap")]
        table.add_row(label, *("-" if value is None else f"{value:.3f}" for value in values))
    console = make_console()
    console.print(table)
    console.print(
        f"Of sentences that name objects, {figures['num_untrue_sentences_vig']} of {figures['num_sentences_vig']} of "
        f"VIG and {figures['num_untrue_sentences_vic']} of {figures['num_sentences_vic']} of VIC name an absent one.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--num", type=int, default=500, help="held-out scenes to describe, of each of two sets")
    parser.add_argument("--num-questions", type=int, default=200, help="scenes to answer gold questions about")
    parser.add_argument("--seed", type=int, default=1, help="the seed of the scenes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    given = parser.parse_args()
    quality(num=given.num, num_questions=given.num_questions, seed=given.seed, json_file=given.json)


if __name__ == "__main__":
    main()
