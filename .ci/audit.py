"""Looks up every pinned package in an index of advisories: python .ci/audit.py constraints.txt

Known faults are listed, and the exit code is 1. Where no index can be reached one line says so, and the exit code is 0.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PROBE_S = 8  # for one package, to see whether there is an index at all
AUDIT_S = 300  # for all of them
REQUEST_S = 4


class NotReachedError(Exception):
    """Why nothing is known of any package."""


def look_up(pins: list[str], limit_s: float) -> list[dict[str, Any]]:
    """What the index says of each pin (name==version). Raises NotReachedError."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(pins) + "\n")
        file.flush()
        command = [sys.executable, "-m", "pip_audit", "--requirement", file.name, "--no-deps", "--disable-pip"]
        command += ["--format", "json", "--progress-spinner", "off", "--timeout", str(REQUEST_S)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
        except subprocess.TimeoutExpired as error:
            raise NotReachedError(f"no answer within {limit_s} s") from error
    if not done.stdout.strip():
        raise NotReachedError(next(reversed(done.stderr.strip().splitlines()), f"exit code {done.returncode}"))
    found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    if all("skip_reason" in one for one in found):
        raise NotReachedError("what answers knows no package")
    return found


def main(file: str) -> int:
    lines = [line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines()]
    pins = [line for line in lines if line and not line.startswith("#")]
    try:
        look_up(pins[:1], PROBE_S)
        found = look_up(pins, AUDIT_S)
    except NotReachedError as error:
        print(f"Advisories about {file} were left out; no index of them can be reached: {str(error)[:160]}")
        return 0
    unknown = [one["name"] for one in found if "skip_reason" in one]
    faults = [(one, fault) for one in found for fault in one.get("vulns", ())]
    for one, fault in faults:
        fixed = ", ".join(fault["fix_versions"]) or "no release yet"
        print(
            f"{file}: {one['name']}=={one['version']} has {fault['id']}, fixed in {fixed}. {fault['description'][:200]}"
        )
    left_out = f" ({len(unknown)} are unknown to the index: {', '.join(unknown[:5])})" if unknown else ""
    print(f"{len(found)} pinned packages, {len(faults)} known faults{left_out}.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
