"""Benchmarks: each prints a table and, with --json FILE, writes its figures as one flat object (name -> number)."""

from __future__ import annotations

import json
import os
import shlex
import sys
import sysconfig
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import vigc
from vigc.model.cores import num_cores


def write_figures(json_file: Path | None, figures: dict[str, Any]) -> None:
    """Figures with what they were measured on."""
    if json_file is None:
        return
    import torch
    import transformers

    is_script = Path(sys.argv[0]).parent.name == "scripts"
    about = {
        "command": shlex.join([*(("python", sys.argv[0]) if is_script else ("vigc",)), *sys.argv[1:]]),
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
