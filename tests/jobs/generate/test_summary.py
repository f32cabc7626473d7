"""`vigc summary`, and the tables that `vigc generate` ends with, too."""

from __future__ import annotations

import pytest
from annotated_datasets import AnnotatedAnswer, data_set

from vigc.platform.dataset.verdicts import write_verdicts

WRONG, RIGHT = AnnotatedAnswer(["dog"], "A dog. A cat.", "A dog."), AnnotatedAnswer(["bus"], "A bus.", "A bus.")


@pytest.fixture
def out(tmp_path):
    store = data_set(tmp_path / "data", [[WRONG], [RIGHT], [WRONG]])
    return store.folder.path


def lines(text):
    return [" ".join(line.split()) for line in text.splitlines()]


def test_rates_stand_beside_recall_and_length_with_the_known_limit(vigc_here, out, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    said = lines(vigc_here("summary", out).out)

    assert "detail VIG 3 66.7% (0.0–100.0) 40.0% (0.0–50.0) 100.0% (100.0–100.0) 3.3 (2.0–4.0)" in said
    assert "VIC 3 0.0% (0.0–0.0) 0.0% (0.0–0.0) 100.0% (100.0–100.0) 2.0 (2.0–2.0)" in said
    assert any("Boxes are incomplete" in line for line in said)
    assert not any(line.startswith("kept 2") for line in said)


def test_each_part_has_a_table_of_its_own(vigc_here, out, tmp_path):
    domains = tmp_path / "domains.csv"
    domains.write_text("image_id,domain\nim0.png,animals\nim1.png,traffic\n")
    groups = vigc_here("summary", out, "--by", domains, "--json").json()["groups"]

    assert {name: group["hallucination"]["detail"]["vig"]["chair_s"]["value"] for name, group in groups.items()} == {
        "animals": 1.0,
        "traffic": 0.0,
        "(not listed)": 1.0,
    }
    assert [(group["num_kept"], group["rejected_by_reason"]) for group in groups.values()] == [(1, {})] * 3
    assert "traffic: 1 kept, 0 rejected" in vigc_here("summary", out, "--by", domains).out
    assert list(vigc_here("summary", out, "--by", "pass", "--json").json()["groups"]) == ["001"]
    assert list(vigc_here("summary", out, "--by", "folder", "--json").json()["groups"]) == ["."]


@pytest.mark.parametrize(
    ("content", "says"), [("name,domain\na,b\n", "no column 'image_id'"), (None, "no such file"), ("", "nor CSV")]
)
def test_a_file_of_domains_that_cannot_be_used_is_one_line(vigc_here, out, tmp_path, content, says):
    domains = tmp_path / "domains.csv"
    if content is not None:
        domains.write_text(content)
    result = vigc_here("summary", out, "--by", domains)

    assert result.code == 2
    assert says in result.err
    assert result.err.count("\n") == 1


def test_show_export_and_summary_leave_out_what_verdicts_reject(vigc_here, out, tmp_path):
    from vigc.platform.dataset.store import Store

    columns = {"image_id": ["im0.png"], "kind": ["detail"], "pass": ["001"], "verdict": ["rejected"]}
    write_verdicts(Store(out).folder, "filter", [{**columns, "reasons": [["mine"]]}], {})

    assert "rejected: mine" in vigc_here("show", out, "--rejected").out
    assert vigc_here("summary", out, "--json").json()["kinds"]["detail"]["rejected_by_reason"] == {"mine": 1}
    assert "2 examples" in vigc_here("export", out, "--out", tmp_path / "train.json").out
    assert vigc_here("verify", out).code == 0


def test_a_damaged_file_of_verdicts_is_found_and_its_remedy_works(vigc_here, out):
    from vigc.platform.dataset.store import Store

    columns = {"image_id": ["im0.png"], "kind": ["detail"], "pass": ["001"], "verdict": ["rejected"]}
    write_verdicts(Store(out).folder, "filter", [{**columns, "reasons": [["mine"]]}], {})
    file = out / "verdicts" / "001.parquet"
    file.write_bytes(file.read_bytes()[:-9])

    assert "is not as it was written" in vigc_here("verify", out).out
    assert "is not as it was written" in vigc_here("show", out).err
    (out / "verdicts" / "001.json").unlink()
    assert "counts for nothing" in vigc_here("verify", out).out
    file.unlink()
    assert vigc_here("verify", out).code == 0
