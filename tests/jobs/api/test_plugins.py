"""What other packages add: a small one is installed, and each of its plug-ins used."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vigc.platform import plugins
from vigc.platform.records import ConfigError

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to import from, with the package as pip installs it."""
    place = tmp_path_factory.mktemp("plugins")
    package = ROOT / "jobs" / "examples" / "plugins"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-deps"]
    source = place / "source"  # pip leaves what it builds beside the files
    source.mkdir()
    for file in package.iterdir():
        if file.is_file():
            (source / file.name).write_bytes(file.read_bytes())
    subprocess.run([*pip, "--no-build-isolation", "--target", place / "there", source], check=True)
    (place / "there" / "counting.yaml").write_bytes((package / "counting.yaml").read_bytes())
    return place / "there"


@pytest.fixture
def known(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(installed)


def test_all_five_are_used(known, vigc_joined, scenes_dir: Path, tmp_path: Path) -> None:
    pictures = sorted(file.name for file in (scenes_dir / "images").iterdir())[:3]
    album = tmp_path / "album.json"
    album.write_text(json.dumps({"folder": os.fspath(scenes_dir / "images"), "pictures": pictures}))
    out = tmp_path / "data"
    asked = ("--policy", "short", "--prompts", "counting", "--kinds", "conversation")
    made = vigc_joined("generate", album, "--source", "album", "--out", out, *asked)
    assert made.code == 0, made.err
    assert "album " in made.out
    assert "policy short" in made.out
    request = json.loads((out / "passes/001/request.json").read_text())
    assert (request["policy"]["max_steps"], request["prompts"]["name"]) == (2, "counting")
    filtered = vigc_joined("filter", out, "--also", "shouting", "--json")
    assert "the answer is in capital letters" in filtered.out
    exported = vigc_joined("export", out, "--format", "captions")
    assert exported.code == 0, exported.err
    lines = (out / "exports/captions.tsv").read_text().splitlines()
    assert sorted(line.split("\t")[0] for line in lines) == pictures


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("generate", "{scenes}", "--out", "{out}", "--source", "albun"), "There is no source 'albun'.*album"),
        (("generate", "{scenes}", "--out", "{out}", "--policy", "shorter"), "policy 'shorter' is unknown.*short"),
        (("generate", "{scenes}", "--out", "{out}", "--prompts", "count"), "count: the prompt pack cannot be read"),
    ],
)
def test_a_name_that_no_package_has_is_refused_with_those_that_there_are(
    words, message: str, known, vigc_here, scenes_dir: Path, tmp_path: Path
) -> None:
    given = [word.format(scenes=scenes_dir, out=tmp_path / "data") for word in words]
    refused = vigc_here(*given)
    assert refused.code == 2
    assert re.search(message, refused.err), refused.err
    assert not (tmp_path / "data").exists()


def test_a_plug_in_that_cannot_be_loaded_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = tmp_path / "broken-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[vigc.policies]\nbad = broken_module:POLICY\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"'bad' of broken \(vigc.policies\) cannot be loaded: ModuleNotFoundError"):
        plugins.load(plugins.POLICIES, "bad")
