"""An experiment's table as a page of its own, in the style of the report."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from vigc.platform.storage.files import written_whole

_TEMPLATES = Path(__file__).with_name("templates")


def write_page(path: Path, table: Mapping[str, Any], arms: Mapping[str, str]) -> None:
    """
    Args:
        table: `seeds` and `rows`, as they stand in experiment.json.
        arms: what each arm learns, the base data first.
    """
    style = Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8"))
    html = _environment().get_template("experiment.html").render(style=style, arms=arms, **table)
    with written_whole(path) as stream:
        stream.write(html)


@cache
def _environment() -> Environment:
    return Environment(loader=FileSystemLoader(_TEMPLATES), undefined=StrictUndefined, autoescape=True)
