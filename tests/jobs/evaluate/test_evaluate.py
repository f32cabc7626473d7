"""`vigc evaluate` from end to end: a model is asked, killed, asked on; scores follow from what is stored."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter

import pyarrow.parquet as pq
import pytest
from chat_server import ChatServer, echo
from tiny_llava import write_tiny_llava
from waiting import wait_until

from vigc.jobs.evaluate.config import EvaluateConfig, JudgeConfig
from vigc.jobs.evaluate.run import rescore, run_evaluate
from vigc.platform.dataset.verify import verify
from vigc.platform.records import ConfigError, StoreError


@pytest.fixture(scope="module")
def questions(scenes_dir, tmp_path_factory):
    """Two questions about each of twelve scenes and a file that is no picture."""
    file = tmp_path_factory.mktemp("questions") / "own.jsonl"
    images = sorted((scenes_dir / "images").iterdir())
    (scenes_dir / "images" / "broken.jpg").write_text("no picture")
    lines = [
        {"image": name, "question": f"{word} of {name}?", "answers": [f"reply to: Colour of {name}?"], "type": word}
        for name in [*(path.name for path in images), "broken.jpg"]
        for word in ("Colour", "Shape")
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    return file


def config(questions, scenes_dir, out, **changes):
    given = {"model": "embedded", "benchmark": "questions", "images": str(scenes_dir / "images"), "device": "cpu"}
    return EvaluateConfig(questions=str(questions), out=str(out), **given | changes)


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_and_asks_nothing_twice_that_was_committed(
    vigc_joined, vigc_started, questions, scenes_dir, tmp_path
):
    def slowly(request):
        time.sleep(0.3)
        return echo(request)

    out = tmp_path / "eval"
    with ChatServer(slowly) as server:
        arguments = ["evaluate", server.url, "--endpoint-model", "m", "--benchmark", "questions", "--out", out]
        arguments += ["--questions", questions, "--images", scenes_dir / "images", "--slots", 1]
        arguments += ["--template", "{question}"]
        process = vigc_started(*arguments)
        wait_until(lambda: [*out.glob("passes/001/rows/*/*.parquet")], process=process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        committed = [*out.glob("passes/001/rows/*/*.parquet")]
        answered = [row for file in committed for row in pq.read_table(file).to_pylist()]
        before = len(server.requests)
        assert before < 24
        with pytest.raises(StoreError, match="have no answer yet"):
            rescore(str(out))
        result = vigc_joined(*arguments, "--json")
        assert result.code == 0, result.err
        asked = Counter(request["messages"][0]["content"][-1]["text"] for request in server.requests)
        again = Counter(request["messages"][0]["content"][-1]["text"] for request in server.requests[before:])
        assert len(asked) == 24
        assert not {spoken["instruction"] for row in answered for spoken in row["conversations"]} & set(again)
        num_requests = len(server.requests)
        said = vigc_joined(*arguments)
        assert len(server.requests) == num_requests
    scores = result.json()
    # Twelve colours right; twelve shapes wrong; of the broken picture both.
    assert scores["scores"]["exact"]["value"] == pytest.approx(12 / 26)
    assert scores["parts"]["Shape"]["exact"]["value"] == 0
    assert scores["num_failed"] == 2
    assert "2 of 26 questions have no answer and count as wrong" in said.out
    assert "46.2 %" in said.out
    assert verify(str(out)).problems == []
    predictions = pq.read_table(out / "predictions.parquet").to_pylist()
    assert len({row["id"] for row in predictions}) == 26
    assert {row["error"].partition(":")[0] for row in predictions if row["image"] == "broken.jpg"} == {"not_an_image"}
    (out / "scores.json").unlink()
    assert rescore(str(out)) == json.loads((out / "scores.json").read_text()) == scores


def test_a_llava_and_the_embedded_model_answer_the_same_files(shared_ray, questions, scenes_dir, tmp_path):
    folder = write_tiny_llava(tmp_path / "llava")
    llava = run_evaluate(config(questions, scenes_dir, tmp_path / "a", model=str(folder), max_tokens=3, limit=6))
    own = run_evaluate(config(questions, scenes_dir, tmp_path / "b", limit=6))
    for done in (llava, own):
        assert done.scores["num_questions"] == 6
        assert done.scores["num_failed"] == 0
        assert done.num_asked == 3
    assert llava.scores["model"]["name"] == "llava"
    replies = [pq.read_table(tmp_path / name / "predictions.parquet")["reply"].to_pylist() for name in "ab"]
    assert replies[0] != replies[1]
    assert all(replies[1])
    with pytest.raises(StoreError, match="limit: 6 -> 5"):
        run_evaluate(config(questions, scenes_dir, tmp_path / "b", limit=5))


def test_judgements_are_recorded_and_replayed(shared_ray, scenes_dir, tmp_path):
    question = {"question_id": 3, "image": "000000.jpg", "text": "What is it?", "category": "conv"}
    (tmp_path / "q.jsonl").write_text(json.dumps(question))
    (tmp_path / "r.jsonl").write_text(json.dumps({"question_id": 3, "text": "A house."}))
    (tmp_path / "c.jsonl").write_text(json.dumps({"image": "000000.jpg", "caption": "a house"}))
    with ChatServer(lambda request: "8 4\nwell" if request["model"] == "judge" else echo(request)) as server:
        settings = config(
            tmp_path / "q.jsonl",
            scenes_dir,
            tmp_path / "eval",
            benchmark="llava",
            model=server.url,
            endpoint_model="m",
            references=str(tmp_path / "r.jsonl"),
            context=str(tmp_path / "c.jsonl"),
        )
        with pytest.raises(ConfigError, match="2 of 2 judgements are not recorded"):
            run_evaluate(settings)
        scores = rescore(str(tmp_path / "eval"), judge=JudgeConfig(server.url, "judge"))
    # 4 of 8 where the reference stands first, 8 of 4 where it stands last
    assert scores["scores"]["relative"]["value"] == pytest.approx(12 / 12)
    assert scores["scores"]["reference_first"]["value"] == 0.5
    assert scores["judge"] == "judge"
    assert rescore(str(tmp_path / "eval")) == scores


def test_wrong_use_is_one_line(vigc_here, tmp_path):
    for arguments, said in (
        (["embedded", "--questions", "q", "--out", "x"], "--benchmark is missing"),
        (["embedded", "--benchmark", "vqa", "--questions", "q", "--out", "x"], "There is no benchmark 'vqa'"),
        (["--rescore", tmp_path / "none"], "holds no evaluation"),
        (["http://127.0.0.1:1/v1", "--benchmark", "pope", "--questions", "q", "--out", "x"], "--endpoint-model is"),
        (
            ["embedded", "--benchmark", "pope", "--questions", "q.json", "--out", tmp_path / "x"],
            "q.json: cannot read the file",
        ),
    ):
        result = vigc_here("evaluate", *arguments)
        assert (result.code, said in result.err) == (2, True), result.err
        assert result.err.count("\n") == 1
