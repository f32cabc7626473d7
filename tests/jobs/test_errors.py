"""Every documented error: one line on stderr, exit code 2, nothing written."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from datasets import draw, finished

from vigc.platform.dataset.store import Store


@pytest.fixture
def place(tmp_path):
    draw(tmp_path / "photos" / "a.png", seed=1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "annotations.json").write_text('{"images": [')
    (tmp_path / "orphan").mkdir()
    orphan = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"image_id": 2, "category_id": 1, "bbox": [0, 0, 1, 1]}],
        "categories": [{"id": 1, "name": "dog"}],
    }
    (tmp_path / "orphan" / "annotations.json").write_text(json.dumps(orphan))
    (tmp_path / "bad.yaml").write_text("seed: 1\nslot: 2\n")
    (tmp_path / "pack.yaml").write_text("name: mine\nquestion: 'Q:'\n")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("...")
    finished(tmp_path / "other")
    return tmp_path


def files_below(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("generate empty --out out", "empty holds no image"),
        ("generate nowhere --out out", "nowhere: no such file or folder"),
        ("generate torn --out out", "annotations.json: not a JSON file"),
        ("generate orphan --out out", "annotations[0] names image_id 2"),
        ("generate photos --annotations lost.json --out out", "lost.json: no such file"),
        ("generate photos --out other", "made with other settings: kinds: [\"conversation\", \"detail\"] -> "),
        ("generate photos --out letters", "holds 'dear.txt', which is no data set"),
        ("generate photos --out photos/a.png", "a file stands where a folder is needed"),
        ("generate photos --out photos/a.png/out", "a file stands where a folder is needed"),
        ("generate photos --out letters --overwrite", "holds 'dear.txt', which is no data set"),
        ("generate photos --out out --kinds story", "--kinds: there is no 'story'"),
        ("generate photos --out out --policy wishful", "there are paper, lean, verified, shipped"),
        ("generate photos --out out --policy shipped", "Add --engine reference, or --set num_beams=1"),
        ("generate photos --out out --set steps=2", "--set steps: there is no option 'steps'"),
        ("generate photos --out out --set max_steps", "not of the form option=value"),
        ("generate photos --out out --config bad.yaml", "bad.yaml:2: unknown key 'slot'"),
        ("generate photos --out out --prompts pack.yaml", "pack.yaml:2: unknown key 'question'"),
        ("generate photos --out out --model nomodel", "nomodel: no such folder"),
        ("generate photos --out out --model letters", "no config.json there"),
        ("generate photos --out out --engine steam", "--engine: there is no 'steam'; use auto, continuous, ref"),
        ("generate photos --out out --engine vllm --vllm-python nowhere", "Run `make vllm`, or name the Python"),
        ("generate photos --out out --device tpu", "--device: there is no device 'tpu'"),
        ("generate photos --out out --actors 0", "--actors: '0' is no range"),
        ("generate photos --out out --resume", "holds no data set that could be resumed"),
        ("generate --retry-failed --add-kind detail other", "--retry-failed and --add-kind contradict each other"),
        ("generate photos --out other --new --overwrite", "--overwrite and --new contradict each other"),
        ("generate photos --out other --resume --new", "--new and --resume contradict each other"),
        ("generate --retry-failed --limit 3 other", "--limit does not go with --retry-failed"),
        ("generate --retry-failed --kinds detail other", "--kinds does not go with --retry-failed"),
        ("generate --add-kind detail --source coco other", "--source does not go with --add-kind"),
        ("generate --retry-failed", "vigc generate --retry-failed OUT"),
        ("generate photos --out other --add-kind detail", "vigc generate --add-kind detail OUT"),
        ("generate --retry-failed photos", "photos holds no data set"),
        ("generate --retry-failed other", "other does not say how it was made"),
        ("generate photos", "--out is missing"),
        ("generate --out out", "IMAGES is missing"),
        ("verify other --sample 3", "Add --images"),
        ("show photos", "holds no data set"),
        ("verify nowhere", "holds no data set"),
        ("digest nowhere", "holds no data set"),
        ("export other --format sharepoint", "There is no export format 'sharepoint'"),
        ("show other --kind story", "--kind: there is no 'story'"),
    ],
)  # fmt: skip
def test_a_mistake_gives_one_line_and_leaves_nothing(vigc_here, place, arguments, complaint):
    before = files_below(place)

    result = vigc_here(*arguments.split(), cwd=place)

    assert result.code == 2
    assert complaint in result.err
    assert result.err.startswith("vigc: ")
    assert result.err.count("\n") == 1
    assert result.out == ""
    assert files_below(place) == before


@pytest.mark.parametrize("format_", [None, 0])
@pytest.mark.parametrize(
    "arguments",
    [
        "generate photos --out other",
        "generate photos --out other --new",
        "generate --retry-failed other",
        "generate --add-kind detail other",
        "show other",
        "summary other",
        "verify other --images",
        "digest other",
        "filter other",
        "export other --format llava",
        "report other",
        "audit other marks.json",
        "train --recipe paper_7b --data other --out model",
    ],
)
def test_a_data_set_of_another_format_is_refused_in_one_line_by_every_verb_that_opens_one(
    vigc_here, place, arguments, format_
):
    (place / "marks.json").write_text(json.dumps({"format": "vigc marks 1", "marks": []}))
    file = place / "other/passes/001/request.json"
    request = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in {**request, "format": format_}.items() if v is not None}))
    before = files_below(place)

    result = vigc_here(*arguments.split(), cwd=place)

    assert (result.code, result.out) == (2, "")
    assert result.err.count("\n") == 1
    assert (
        "other/passes/001: written " + ("without a format number" if format_ is None else "in format 0") in result.err
    )
    assert "Make the data again in another folder, or use the version of vigc that wrote them." in result.err
    assert files_below(place) == before


def test_a_kind_that_is_none_cannot_be_added(vigc_here, place):
    note_a_run(place)
    for kinds, complaint in (("story", "there is no 'story'"), ("", "there is no ''")):
        result = vigc_here("generate", "--add-kind", kinds, "other", cwd=place)
        assert (result.code, result.out) == (2, "")
        assert complaint in result.err


def note_a_run(place):
    config = {"images": "photos", "out": "other", "set": {}}
    run = {"started": "2026-01-01T00:00:00+00:00", "config": config, "model": {"location": None, "files": []}}
    Store(place / "other").passes()[0].add_run(run)


def test_an_error_looks_the_same_from_a_process_of_its_own(vigc, place):
    result = vigc("generate", "empty", "--out", "out", cwd=place)

    assert (result.code, result.out) == (2, "")
    assert (
        result.err == "vigc: empty holds no image. Name a folder with JPEG, PNG, WebP, BMP, TIFF or GIF files in it.\n"
    )


def test_a_disk_without_room_is_named_and_nothing_half_written_stays(place):
    """A limit on the size of files stands for the full disk."""
    limited = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600)); from vigc.jobs.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, "generate", "photos", "--out", "out"],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert "a file grew past the size limit" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (place / "out").exists()


def test_debug_shows_where_an_error_was_raised_wherever_it_stands(vigc_here, place):
    for arguments in (("--debug", "verify", "nowhere"), ("verify", "nowhere", "--debug")):
        result = vigc_here(*arguments, cwd=place)
        assert result.code == 2
        assert "Traceback" in result.err
        assert "StoreError" in result.err


@pytest.mark.parametrize("words", [("--help",), ("doctor", "--json")])
def test_a_full_disk_under_standard_output_is_one_line_and_no_fault(words):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "vigc.jobs.cli", *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert "No space left on device" in done.stderr
    assert "fault in vigc" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cluster_at_whose_address_nobody_listens_is_told_soon(vigc, scenes_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    refused = vigc("generate", scenes_dir, "--out", tmp_path / "data", timeout=60)
    assert refused.code == 2
    assert "nobody listens there" in refused.err
