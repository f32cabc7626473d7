"""Help, versions and the verbs that need neither torch nor Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from datasets import commit, finished, row

from vigc.jobs.cli import ALL_VERBS
from vigc.jobs.generate.config import GenerateConfig
from vigc.jobs.generate.plan import make_plan
from vigc.platform.dataset.store import Store

HEAVY = ("torch", "ray", "transformers", "pyarrow", "numpy", "PIL")

# Runs command lines in this process and says on stderr which heavy modules they imported.
SPY = """
import sys
from vigc.jobs.cli import main
for words in {commands!r}:
    sys.argv = ["vigc", *words]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, words
    print(*words, *(m for m in {modules!r} if m in sys.modules), file=sys.stderr)
"""


def heavy_imports_of(*commands):
    """A line for each command: its words, and what had been imported by its end."""
    code = SPY.format(modules=HEAVY, commands=[list(map(str, words)) for words in commands])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


def test_help_imports_nothing_heavy():
    verbs = [[*verb.split(), "--help"] for verb in ALL_VERBS]

    assert heavy_imports_of(["--version"], ["--help"], *verbs) == [
        "--version",
        "--help",
        *(" ".join(words) for words in verbs),
    ]


def test_the_spy_on_imports_sees_them(tmp_path):
    finished(tmp_path / "data")

    assert heavy_imports_of(["digest", tmp_path / "data"])[0].endswith("pyarrow numpy")


def test_help_names_every_verb_the_examples_and_the_exit_codes(vigc_here):
    text = vigc_here("--help").out

    assert all(verb.split()[0] in text for verb in ALL_VERBS)
    assert "vigc generate scenes --out data" in text
    assert "130 stopped (Ctrl-C, SIGTERM, SIGHUP)" in " ".join(text.split())


def test_the_version_is_the_package_s(vigc_here):
    import vigc as package

    assert vigc_here("--version").out == f"vigc {package.__version__}\n"


def test_an_unknown_verb_suggests_the_right_one(vigc_here):
    result = vigc_here("generat")

    assert result.code == 2
    assert "generate" in result.err


def test_shell_completion_knows_the_verbs():
    asked = {"_VIGC_COMPLETE": "complete_bash", "COMP_WORDS": "vigc gen", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "vigc.jobs.cli"], env=os.environ | asked, capture_output=True, text=True, check=False
    )

    assert done.stdout.split() == ["generate"]


def test_verify_finds_a_whole_data_set_ok_and_exits_0(vigc_here, tmp_path):
    finished(tmp_path / "data", num=6, failed=1)

    result = vigc_here("verify", tmp_path / "data")

    assert (result.code, result.err) == (0, "")
    heading, line, last = (text.rstrip() for text in result.out.splitlines())
    assert heading.split() == ["pass", "kinds", "asked", "for", "rows", "failed"]
    assert line.split() == ["001", "conversation,", "detail", "6", "6", "1"]
    assert last == "ok: 6 images asked for, 6 rows, 1 of them for images that could not be used, none double or torn."


def test_verify_exits_1_and_says_what_is_wrong(vigc_here, tmp_path):
    store = finished(tmp_path / "data")
    torn = next((store.passes()[0].folder.path / "rows").rglob("*.parquet"))
    torn.write_bytes(torn.read_bytes()[:-20])

    for arguments in ([], ["--json"]):
        result = vigc_here("verify", tmp_path / "data", *arguments)
        assert result.code == 1
        assert torn.name in result.out
    assert result.json()["ok"] is False


def test_digest_prints_the_hash_and_nothing_else(vigc_here, tmp_path):
    from vigc.platform.dataset.digest import digest

    finished(tmp_path / "data")

    assert vigc_here("digest", tmp_path / "data").out == f"{digest(tmp_path / 'data')}\n"
    assert vigc_here("digest", tmp_path / "data", "--json").json() == {"digest": digest(tmp_path / "data")}


def test_export_writes_a_file_that_passes_its_own_check(vigc_here, tmp_path):
    store = finished(tmp_path / "data", num=6, failed=1)

    done = vigc_here("export", tmp_path / "data", "--format", "llava", "--json").json()

    examples = json.loads(store.folder.read("exports/llava.json"))
    assert done["num_examples"] == len(examples) == 4  # two odd images, two kinds each
    assert done["image_folder"] == "/nowhere"


def test_export_with_check_refuses_images_that_are_not_there(vigc_here, tmp_path):
    finished(tmp_path / "data", num=6)

    result = vigc_here("export", tmp_path / "data", "--out", tmp_path / "train.json", "--check")

    assert result.code == 2
    assert "train.json fails its check: row 0 and 3 more: there is no file /nowhere/im1.png." in result.err


def test_export_says_what_is_left_out_and_refuses_what_a_format_cannot(vigc_here, tmp_path):
    finished(tmp_path / "data", num=6)

    done = vigc_here("export", tmp_path / "data", "--format", "webdataset", "--out", tmp_path / "wds")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[1] == "left out: 4 without their image: missing"
    for arguments in (["--per", "word"], ["--format", "parquet", "--multi-turn"], ["--format", "parquet", "--check"]):
        result = vigc_here("export", tmp_path / "data", *arguments)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)


def test_validate_exits_1_on_a_fault_and_names_the_rows(vigc_here, tmp_path):
    good = {"conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "That."}]}
    bad = {"image": "a.png", **good}
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, [good, bad, good])))

    result = vigc_here("validate", tmp_path / "x.jsonl", "--out", tmp_path / "found.jsonl")

    assert (result.code, result.err) == (1, "")
    assert "fault  marks                   1  the marks for images in the text do not match" in result.out
    assert "note   repeated row            1" in result.out
    assert result.out.splitlines()[-1] == "not ok: 3 rows, 6 turns, 1 images, 1 faults. Rows are counted from 0."
    found = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert found[0] == {"row": 1, "found": "marks", "words": "0 marks for 1 images"}
    assert vigc_here("validate", tmp_path / "x.jsonl", "--json").json()["found"]["marks"]["rows"] == [1]


def test_validate_counts_the_tokens_of_a_tokenizer(vigc_here, tmp_path):
    from vigc.model.embedded import PATH

    one = {"id": "1", "conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A red car."}]}
    (tmp_path / "x.json").write_text(json.dumps([one]))
    arguments = ("validate", tmp_path / "x.json", "--json", "--tokenizer", PATH)

    assert vigc_here(*arguments, "--max-tokens", "40").code == 0
    found = vigc_here(*arguments, "--max-tokens", "3")
    assert (found.code, found.json()["found"]["too long"]["num"]) == (1, 1)
    assert vigc_here("validate", tmp_path / "x.json", "--tokenizer", tmp_path).code == 2
    assert vigc_here("validate", tmp_path / "x.json", "--max-tokens", "3").code == 2
    assert vigc_here("validate", tmp_path / "x.json", "--exclude-like", tmp_path).code == 2  # without --open
    assert vigc_here("validate", tmp_path / "none.json").code == 2


def test_doctor_names_what_is_there(vigc_here):
    found = vigc_here("doctor", "--json").json()

    assert found["ray"] == {"state": "ok", "found": __import__("ray").__version__, "remedy": ""}
    assert found["embedded model"]["state"] == "ok"
    assert {"cores", "memory", "disk", "device"} <= found.keys()


def test_a_reader_that_goes_away_is_no_fault(tmp_path):
    finished(tmp_path / "data", num=40, failed=0)
    show = subprocess.Popen(
        [sys.executable, "-m", "vigc.jobs.cli", "show", tmp_path / "data", "--limit", "40", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    show.stdout.close()

    assert b"Traceback" not in show.stderr.read()
    show.wait()


def test_generate_exits_1_when_no_image_gave_a_row_that_can_be_used(vigc_here, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "im0.png").write_bytes(b"")
    plan = make_plan(GenerateConfig(images=str(tmp_path / "broken"), out=str(tmp_path / "data")))
    done = Store(tmp_path / "data").create_pass(plan.request, plan.source)
    commit(done, [row(record, error="empty") for record in plan.source], 0)

    result = vigc_here("generate", tmp_path / "broken", "--out", tmp_path / "data")

    assert result.code == 1
    assert "1 of 1 images: 0 ok, 1 failed (empty 1)" in result.out
    assert "No image gave a row that can be used" in result.err
