"""`vigc preview`: a few images, before a run is begun."""

from __future__ import annotations

from pathlib import Path

import pytest

from vigc.platform.dataset.store import Store


def test_it_shows_what_is_asked_and_said_and_keeps_the_report_alone(
    vigc_joined, scenes_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    shown = vigc_joined("preview", scenes_dir, "--sample", 3, "--kinds", "conversation,detail", "--price", 2)
    assert shown.code == 0, shown.err
    for expected in ("asked for detail: Ask for a full description", "VIG", "VIC", "for all 12 images", "cost"):
        assert expected in shown.out, expected
    assert shown.out.count("conversation ") >= 3
    (left,) = tmp_path.iterdir()
    assert [file.name for file in left.iterdir()] == ["report.html"]
    assert f"{left}/report.html" in shown.out


def test_with_out_the_data_set_stays_and_json_has_the_projection(vigc_joined, scenes_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "tried"
    found = vigc_joined("preview", scenes_dir, "--sample", 2, "--kinds", "detail", "--out", out, "--json").json()
    assert found["projected"]["num_images"] == 12
    assert found["report"] == f"{out}/report.html"
    assert len(list(Store(out).rows())) == 2


def test_what_is_for_a_data_set_that_is_there_is_refused(vigc_here, tmp_path: Path) -> None:
    refused = vigc_here("preview", tmp_path, "--retry-failed")
    assert (refused.code, "Use it with `vigc generate`" in refused.err) == (2, True)
