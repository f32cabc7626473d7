"""Benchmarks: each prints a table and, with --json FILE, writes its figures as one flat object (name -> number)."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
import sysconfig
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

import vigc
from vigc.jobs.terminal import make_console
from vigc.model.cores import num_cores
from vigc.platform.records import Kind

if TYPE_CHECKING:
    from vigc.model.benchmarks.embedded import DescriptionScore, TopicScore
    from vigc.model.engines.base import NetworkEngine
    from vigc.model.scenes import Scene


_QUESTIONS = ("accuracy", "parse_rate", "largest_opening")  # figures of the gold questions and of VIG's form


def embedded(*, model: str | None, num: int, seed: int, json_file: Path | None) -> None:
    """The embedded model on held-out scenes, easy and hard, with and without the prior it was trained under.

    Figures about questions bear no suffix for easy scenes and `_hard` for hard ones; figures about descriptions bear
    none for hard scenes, where there is something to correct, and `_easy` for easy ones.
    """
    from vigc.model import embedded as shipped
    from vigc.model.benchmarks.embedded import held_out_scenes
    from vigc.model.engines.continuous.replicas import continuous_engine
    from vigc.model.network import load_network

    engine = continuous_engine(load_network(model or shipped.PATH), num_slots=128)
    figures: dict[str, float | str] = {"seed": seed, "num_scenes": num}
    try:
        for hard in (False, True):
            for debiased in (False, True):
                scenes = held_out_scenes(num, seed, debiased=debiased, hard=hard)
                title = f"{num} held-out scenes of {'6 to 12' if hard else '1 to 5'} objects"
                title += ", without their usual company" * debiased
                for name, value in _measure(engine, scenes, title).items():
                    about_questions = name.startswith(_QUESTIONS)
                    level = "" if hard is not about_questions else "_hard" if hard else "_easy"
                    figures[name + level + "_debiased" * debiased] = value
    finally:
        engine.close()
    write_figures(json_file, figures)


def _measure(engine: NetworkEngine, scenes: list[Scene], title: str) -> dict[str, float]:
    from vigc.model.benchmarks.embedded import (
        compare,
        generate,
        largest_opening,
        parse_rate,
        score_descriptions,
        score_questions,
    )
    from vigc.model.conversation.policy import make_policy
    from vigc.model.prompts import load_pack

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


def write_figures(json_file: Path | None, figures: dict[str, Any]) -> None:
    """Figures with what they were measured on."""
    if json_file is None:
        return
    import torch
    import transformers

    about = {
        "command": shlex.join(["vigc", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "cores": num_cores(),
        "load": os.getloadavg()[0],  # at the end, of the last minute: what else the machine did tells on timings
        "vigc": vigc.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": sys.version.split()[0],
        "machine": sysconfig.get_platform(),
    }
    json_file.parent.mkdir(parents=True, exist_ok=True)
    json_file.write_text(json.dumps(figures | about, indent=2) + "\n", encoding="utf-8")
