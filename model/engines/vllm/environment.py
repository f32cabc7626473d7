"""Where vLLM lives. It wants other versions of packages than we do, so it has an environment of its own, found by its
Python. Standard library only, so that a run is refused before anything heavy is imported.
"""

from __future__ import annotations

import os
from pathlib import Path

import vigc
from vigc.platform.records import ConfigError

VARIABLE = "VIGC_VLLM_PYTHON"
DEFAULT = Path(vigc.__file__).absolute().parents[1] / ".venv-vllm" / "bin" / "python"  # what `make vllm` makes


def find_python(given: str | Path | None = None) -> Path:
    """The Python of vLLM's environment: the one given, else the environment variable's, else the default.

    Raises:
        ConfigError: there is none; says how to get one.
    """
    named = given or os.environ.get(VARIABLE)
    # Not resolved: a virtual environment is known by the path that its Python is called by.
    python = Path(named).expanduser().absolute() if named else DEFAULT
    if not (python.is_file() and os.access(python, os.X_OK)):
        raise ConfigError(
            f"The engine vllm needs vLLM in an environment of its own, and there is no {python}. Run `make vllm`, or "
            f"name the Python of such an environment with --vllm-python or {VARIABLE}."
        )
    return python
