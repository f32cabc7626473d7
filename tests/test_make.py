"""What `make` says of packages: pip's errors and no warnings, known faults, and a line where nobody can be asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
AUDIT = ROOT / ".ci" / "audit.py"


def pip_options(target: str, changed: str) -> list[list[str]]:
    """Of each `pip install` that making the target runs."""
    shown = subprocess.run(
        ["make", "--dry-run", f"--what-if={changed}", target], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout
    lines = [line.split(" -m pip install ")[1].split() for line in shown.splitlines() if " -m pip install " in line]
    return [[word for word in line if word.startswith("-") and word not in ("-c", "-e")] for line in lines]


@pytest.mark.parametrize(
    ("target", "changed"), [("setup", "constraints.txt"), ("vllm", "model/engines/vllm/torchvision_on_cpu.py")]
)
def test_pip_s_errors_are_shown_and_its_warnings_are_not(target: str, changed: str, tmp_path: Path) -> None:
    found = pip_options(target, changed)
    assert found
    for options in found:
        command = [sys.executable, "-m", "pip", "install", *options, "--index-url", (tmp_path / "absent").as_uri()]
        settings = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        done = subprocess.run(
            [*command, "nothing-of-the-kind"],
            capture_output=True,
            text=True,
            env=settings | {"PIP_CONFIG_FILE": os.devnull},
            check=False,
        )
        assert done.returncode == 1
        assert "ERROR: No matching distribution found for nothing-of-the-kind" in done.stderr
        assert "WARNING" not in done.stdout + done.stderr


def audit(index: Path, dependencies: list[dict[str, object]] | None) -> subprocess.CompletedProcess[str]:
    """With a pip-audit that has this to say; None: it cannot reach anybody."""
    (index / "pip_audit.py").write_text(
        "import sys; sys.exit('no connection')"
        if dependencies is None
        else f"import sys; print({json.dumps({'dependencies': dependencies})!r}); sys.exit(1)"
    )
    (index / "pins.txt").write_text("# Pinned.\none==1.0\ntwo==2.0\n")
    return subprocess.run(
        [sys.executable, str(AUDIT), "pins.txt"],
        capture_output=True,
        text=True,
        cwd=index,
        env=os.environ | {"PYTHONPATH": str(index)},
        check=False,
    )


FAULT = {"id": "CVE-2026-1", "fix_versions": ["1.1"], "description": "It falls over."}
SOUND = {"name": "two", "version": "2.0", "vulns": []}


def test_a_known_fault_of_a_pinned_package_is_named_and_fails(tmp_path: Path) -> None:
    done = audit(tmp_path, [{"name": "one", "version": "1.0", "vulns": [FAULT]}, SOUND])
    assert done.returncode == 1
    assert "pins.txt: one==1.0 has CVE-2026-1, fixed in 1.1. It falls over." in done.stdout


def test_what_the_index_does_not_know_is_counted(tmp_path: Path) -> None:
    done = audit(tmp_path, [{"name": "one", "skip_reason": "not there"}, SOUND])
    assert done.returncode == 0
    assert done.stdout == "2 pinned packages, 0 known faults (1 are unknown to the index: one).\n"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (None, "no connection"),
        ([{"name": "one", "skip_reason": "not there"}], "what answers knows no package"),
    ],
)
def test_one_line_says_that_no_index_was_reached_and_nothing_fails(
    tmp_path: Path, said: list[dict[str, object]] | None, reason: str
) -> None:
    done = audit(tmp_path, said)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"Advisories about pins.txt were left out; no index of them can be reached: {reason}\n"
