"""Benchmarks: each prints a table and, with --json FILE, writes its figures as one flat object (name -> number)."""

from __future__ import annotations

import asyncio
import json
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

import vigc
from vigc.jobs.terminal import make_console
from vigc.platform.records import Kind

if TYPE_CHECKING:
    from vigc.model.embedded.evaluate import DescriptionScore, TopicScore
    from vigc.model.engines import Engine
    from vigc.model.scenes import Scene


def embedded(*, model: str | None, num: int, seed: int, json_file: Path | None) -> None:
    """The embedded model on held-out scenes, with and without the prior it was trained under."""
    from vigc.model import embedded as shipped
    from vigc.model.embedded.evaluate import held_out_scenes
    from vigc.model.engines import make_engine
    from vigc.model.network import load_network

    engine = make_engine("continuous", load_network(model or shipped.PATH), num_slots=128)
    figures: dict[str, float | str] = {"seed": seed, "num_scenes": num}
    try:
        for suffix, debiased in (("", False), ("_debiased", True)):
            scenes = held_out_scenes(num, seed, debiased=debiased)
            title = f"{num} held-out scenes" + (", objects without their usual company" if debiased else "")
            figures |= {name + suffix: value for name, value in _measure(engine, scenes, title).items()}
    finally:
        engine.close()
    write_figures(json_file, figures)


def _measure(engine: Engine, scenes: list[Scene], title: str) -> dict[str, float]:
    from vigc.model.conversation import make_policy
    from vigc.model.embedded.evaluate import generate, parse_rate, score_descriptions, score_questions
    from vigc.model.prompts import load_pack

    pack, policy = load_pack(), make_policy("paper")
    topics = asyncio.run(score_questions(engine, pack, policy, scenes))
    kinds = [Kind.DETAIL, Kind.CONVERSATION, Kind.REASONING, Kind.KNOWLEDGE]
    made = asyncio.run(generate(engine, pack, policy, scenes, kinds))
    accuracy = sum(t.accuracy * t.num_questions for t in topics) / sum(t.num_questions for t in topics)
    vig = score_descriptions(scenes, [row[0].vig_answer for row in made])
    vic = score_descriptions(scenes, [row[0].answer for row in made])
    rate = parse_rate(made)
    _print(title, topics, accuracy, rate, vig, vic)
    figures = {"parse_rate": rate, "accuracy": accuracy, "accuracy_worst_type": min(t.accuracy for t in topics)}
    for name, score in (("vig", vig), ("vic", vic)):
        figures |= {f"{key}_{name}": getattr(score, key) for key in ("chair_s", "chair_i", "recall", "length")}
    return figures | {f"accuracy_{t.topic.replace(' ', '_')}": t.accuracy for t in topics}


def _print(
    title: str, topics: list[TopicScore], accuracy: float, rate: float, vig: DescriptionScore, vic: DescriptionScore
) -> None:
    console = make_console()
    table = Table("gold questions", "asked", "right", "chance", "most frequent", title=title, title_justify="left")
    for t in topics:
        table.add_row(t.topic, str(t.num_questions), f"{t.accuracy:.1%}", f"{t.chance:.1%}", f"{t.majority:.1%}")
    table.add_row("all", str(sum(t.num_questions for t in topics)), f"{accuracy:.1%}", "", "", style="bold")
    console.print(table)
    table = Table("descriptions", "name an absent object", "absent of those named", "present ones named", "words")
    for name, score in (("VIG", vig), ("VIC", vic)):
        values = f"{score.chair_s:.1%}", f"{score.chair_i:.1%}", f"{score.recall:.1%}", f"{score.length:.0f}"
        table.add_row(name, *values)
    console.print(table)
    console.print(f"VIG output that parses: {rate:.1%}\n")


def write_figures(json_file: Path | None, figures: dict[str, Any]) -> None:
    """Figures with what they were measured on."""
    if json_file is None:
        return
    import torch
    import transformers

    about = {
        "vigc": vigc.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": sys.version.split()[0],
        "machine": sysconfig.get_platform(),
    }
    json_file.parent.mkdir(parents=True, exist_ok=True)
    json_file.write_text(json.dumps(figures | about, indent=2) + "\n", encoding="utf-8")
