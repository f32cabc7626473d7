from __future__ import annotations

import json

from measured_dataset import UNTRUE, measured_dataset

from vigc.platform.records import Kind


def test_report_and_audit_are_verbs(vigc_here, tmp_path):
    store = measured_dataset(tmp_path)
    assert vigc_here("report", store).out == f"{store}/report.html\n"
    assert vigc_here("report", store, "--json").json() == {"report": f"{store}/report.html"}
    one = {"image_id": "im1.png", "pass": "001", "kind": Kind.DETAIL, "answer": "vig", "sentence": 1, "text": UNTRUE}
    marks = {"format": "vigc marks 1", "marks": [one | {"mark": "wrong", "section": "chosen"}]}
    (tmp_path / "marks.json").write_text(json.dumps(marks))
    text = vigc_here("audit", store, tmp_path / "marks.json").out
    assert "all marks: 1 sentences, 1 wrong by the human" in text
    assert vigc_here("audit", store, tmp_path / "marks.json", "--json").json()["every"]["objects"]["both_wrong"] == 1
    assert vigc_here("audit", store, tmp_path / "none.json").code == 2
    assert vigc_here("report", tmp_path / "nothing").code == 2
