"""The examples do what they say; each runs as a reader would run it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from waiting import WAIT_S

from vigc.platform.dataset.verify import verify

EXAMPLES = Path(__file__).parents[2] / "jobs" / "examples"
pytestmark = pytest.mark.slow


def run(name: str, *arguments: object, cwd: Path) -> str:
    words = [sys.executable, EXAMPLES / name, *map(str, arguments)]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def first_data(ray_folder: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("examples")
    return folder, run("first_data.py", "first", cwd=folder)


def test_first_data(first_data: tuple[Path, str]) -> None:
    folder, said = first_data
    assert "kept: 60 rejected: 0" in said
    assert "every image exactly once: True" in said
    assert verify(folder / "first/data").ok


def test_filter_and_export(first_data: tuple[Path, str]) -> None:
    folder, _ = first_data
    said = run("filter_and_export.py", folder / "first/data", cwd=folder)
    assert "conversation: " in said
    assert "exports/llava.json" in said
    assert (folder / "first/data/exports/huggingface/README.md").is_file()


def test_own_images(first_data: tuple[Path, str], tmp_path: Path) -> None:
    said = run("own_images.py", first_data[0] / "first/scenes", tmp_path / "data", cwd=tmp_path)
    assert said.count("  corrected:") == 20


def test_serve_and_ask(first_data: tuple[Path, str], tmp_path: Path) -> None:
    image = next((first_data[0] / "first/scenes/images").iterdir())
    said = run("serve_and_ask.py", image, cwd=tmp_path)
    assert "Nothing else is in the picture." in said or "No other objects can be seen." in said


def test_the_notebook_shows_a_table_and_the_report(ray_folder: None, tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(EXAMPLES / "first_half_hour.ipynb", as_version=4)
    NotebookClient(notebook, timeout=WAIT_S, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [
        output["data"].get("text/html", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "execute_result"
    ]
    assert any("12 images, 36 conversations kept, 0 failed" in one for one in shown)
    assert shown[-1].startswith("<iframe srcdoc=")
