"""Writes `report.html`, which shows a data set; it is one file and opens without a network.

What was asked, what became of it, hallucination before and after, and images with what was said of them: the worst
rows first, then a random sample. Counts are over all rows, images of a few. Texts come from models and sources that
nobody has checked: everything is escaped, and the page's own policy runs no script but the report's.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from vigc import __version__
from vigc.platform.dataset.passes import Pass
from vigc.platform.dataset.store import Store
from vigc.platform.quality.mentions import ObjectFinder
from vigc.platform.records import Verdict
from vigc.platform.report import charts
from vigc.platform.report.gallery import Card, cards, pieces_with
from vigc.platform.report.gather import Gathered, Sizes, gather
from vigc.platform.report.summary import summarise, vocabularies_of

__all__ = ["REPORT_FILE", "Sizes", "write_report"]

REPORT_FILE = "report.html"
MAX_MATCHES = 200  # images that are like evaluation images, listed in the page
TEMPLATES = Path(__file__).with_name("templates")


def write_report(
    store: Store,
    summary: Mapping[str, Any] | None = None,
    sizes: Sizes | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> str:
    """Writes OUT/report.html, whatever was there before, and returns its address.

    Args:
        summary: as `summarise` gives it; None: it is made.
        on_progress: called with how many rows have been read.
    Raises:
        StoreError: no data set, or one that cannot be read or written.
    """
    summary = summary or summarise(store)
    found = gather(store, sizes or Sizes(), on_progress)
    html = render(store, summary, found)
    with store.folder.new_text(REPORT_FILE) as file:
        file.write(html)
    return f"{store}/{REPORT_FILE}"


def render(store: Store, summary: Mapping[str, Any], found: Gathered) -> str:
    """The whole page."""
    passes = store.existing_passes()
    script = _asset("report.js")
    hallucination = summary["hallucination"]
    opening_bars, openings_note = charts.openings(found)
    covered, coverage_note = charts.coverage(found)
    tabs = _tabs(found, passes)
    return (
        _environment()
        .get_template("report.html")
        .render(
            title=str(store).rstrip("/").rpartition("/")[2],
            out=str(store),
            version=__version__,
            report_id=_digest([str(store), *(one.layout.created for one in passes)]),
            style=_asset("report.css"),
            script=script,
            script_hash=Markup(f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"),
            caution=summary["caution"],
            tiles=charts.tiles(summary),
            passes=[_facts(one) for one in passes],
            funnel=charts.funnel(summary),
            decisions=[{"evaluation_images": None, **one} for one in summary["verdicts"] if "filters" in one],
            max_matches=MAX_MATCHES,
            metrics=charts.metrics(summary),
            has_kept=charts.has_kept(summary),
            num_texts=_num_texts(hallucination),
            vocabulary=hallucination["vocabulary"] if hallucination else "",
            limit=hallucination["limit"] if hallucination else "",
            openings=opening_bars,
            openings_note=openings_note,
            lengths=charts.lengths(found),
            coverage=covered,
            coverage_note=coverage_note,
            untrue=charts.untrue(found),
            pairs=charts.habits(summary),
            tabs=tabs,
            first_tab=next((tab["id"] for tab in tabs if tab["num"]), "random"),
            has_grounding=_has_grounding(tabs),
            sample_note=f"Some of {summary['num_rows']:,} rows; all numbers above are of all of them.",
        )
    )


def _tabs(found: Gathered, passes: list[Pass]) -> list[dict[str, Any]]:
    cut = pieces_with([ObjectFinder(vocabulary) for vocabulary in vocabularies_of(passes)])
    chosen = (
        ("worst", "Worst", found.worst, Verdict.KEPT, "kept answers that name absent objects, or owe the image least",
         "No kept answer names an absent object, or nothing was measured."),
        ("random", "Random", found.random, Verdict.KEPT, "kept conversations, drawn evenly", "Nothing is kept."),
        ("rejected", "Rejected", found.rejected, Verdict.REJECTED, "not exported, and why", "Nothing is rejected."),
    )  # fmt: skip
    tabs: list[dict[str, Any]] = []
    for name, title, rows, verdict, note, empty in chosen:
        made = cards(rows, cut, verdict, worst_first=name == "worst")
        tabs.append(
            {"id": name, "title": title, "num": len(made), "cards": made, "note": note, "empty": empty, "failures": []}
        )
    failures = [
        {"image_id": row["image_id"], "kind": error["kind"], "message": error["message"]}
        for row in found.failed
        if (error := row["error"])
    ]
    tabs.append(
        {
            "id": "failed",
            "title": "Failed",
            "num": len(failures),
            "cards": [],
            "note": "images that gave no row that can be used",
            "empty": "Every image could be read.",
            "failures": failures,
        }
    )
    return tabs


def _has_grounding(tabs: list[dict[str, Any]]) -> bool:
    shown: list[Card] = [card for tab in tabs for card in tab["cards"]]
    return any(
        sentence.grounding is not None
        for card in shown
        for spoken in card.conversations
        for sentence in (*spoken.vig, *spoken.final)
    )


def _facts(one: Pass) -> dict[str, str]:
    """The settings of a pass, in words."""
    request = one.request
    model, prompts, policy = (request.get(name) or {} for name in ("model", "prompts", "policy"))
    facts = {
        "pass": f"{one.number}: {one.num_requested:,} images",
        "source": request.get("source"),
        "kinds": ", ".join(request["kinds"]),
        "model": model.get("name"),
        "policy": policy.get("name"),
        "prompts": prompts.get("name"),
        "objects named in": (request.get("objects") or {}).get("vocabulary"),
        "seed": request.get("seed"),
    }
    return {name: str(value) for name, value in facts.items() if value not in (None, "")}


def _num_texts(hallucination: Mapping[str, Any] | None) -> str:
    kinds = (hallucination or {"kinds": {}})["kinds"].items()
    return ", ".join(f"{kind}: {answers['vic']['num_texts']:,} texts" for kind, answers in kinds if "vic" in answers)


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _asset(name: str) -> Markup:
    """The report's own style or script, which goes into the page as it is."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


@cache
def _environment() -> Environment:
    return Environment(loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, autoescape=True)
