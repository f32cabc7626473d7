"""Draws what VIC gains against the number of query tokens: JSON lines of `ablate_queries.py` to an SVG.

python tests/benchmarks/scripts/plot_queries.py results/queries.jsonl results/queries.svg
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from statistics import mean
from typing import Any

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 360, 280, 48, 34, 44
SERIES = (("vig", "VIG", "#b3541e"), ("one_shot", "VIC in one go", "#8a8a8a"), ("vic", "VIC", "#1e6fb3"))
SETS = (("", "objects in their usual company"), ("_debiased", "debiased"))


def main() -> None:
    lines = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
    Path(sys.argv[2]).write_text(draw([json.loads(line) for line in lines]), encoding="utf-8")


def draw(runs: list[dict[str, Any]]) -> str:
    """Two panels of share of descriptions naming an absent object; a line joins means, dots are single runs."""
    top = 0.05 + max(run[f"chair_s_{name}{suffix}"] for run in runs for name, *_ in SERIES for suffix, _ in SETS)
    panels = [panel(runs, suffix, title, i * WIDTH, top) for i, (suffix, title) in enumerate(SETS)]
    size = f'width="{2 * WIDTH}" height="{HEIGHT}" viewBox="0 0 {2 * WIDTH} {HEIGHT}"'
    style = 'font-family="sans-serif" font-size="11" fill="#333"'
    background = '<rect width="100%" height="100%" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{background}{"".join(panels)}</svg>\n'


def panel(runs: list[dict[str, Any]], suffix: str, title: str, offset: int, top: float) -> str:
    queries = sorted({run["queries"] for run in runs})

    def x(number: int) -> float:
        span = math.log2(queries[-1] / queries[0]) or 1
        return offset + LEFT + (WIDTH - LEFT - 24) * math.log2(number / queries[0]) / span

    def y(share: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share / top

    parts = [f'<text x="{offset + LEFT}" y="20" font-weight="bold">{title}</text>']
    for tenth in range(int(top * 10) + 1):
        level = y(tenth / 10)
        parts.append(f'<path d="M{offset + LEFT} {level:.1f}H{offset + WIDTH - 24}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{offset + LEFT - 6}" y="{level + 4:.1f}" text-anchor="end">{10 * tenth} %</text>')
    parts += [f'<text x="{x(n):.1f}" y="{HEIGHT - 26}" text-anchor="middle">{n}</text>' for n in queries]
    parts.append(f'<text x="{offset + (LEFT + WIDTH) / 2}" y="{HEIGHT - 8}" text-anchor="middle">query tokens</text>')
    for row, (name, label, colour) in enumerate(SERIES):
        shares = {n: [r[f"chair_s_{name}{suffix}"] for r in runs if r["queries"] == n] for n in queries}
        line = " ".join(f"{x(n):.1f},{y(mean(values)):.1f}" for n, values in shares.items())
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x(n):.1f}" cy="{y(value):.1f}" r="2.5" fill="{colour}"/>'
            for n, values in shares.items()
            for value in values
        ]
        parts.append(f'<text x="{offset + WIDTH - 110}" y="{TOP + 14 * row + 10}" fill="{colour}">{label}</text>')
    return "".join(parts)


if __name__ == "__main__":
    main()
