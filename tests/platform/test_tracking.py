"""What a run tells MLflow arrives there, and a server that is not there stops nothing."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import mlflow
import numpy as np
import pytest
from ports import free_port
from waiting import wait_until

from vigc.platform import tracking
from vigc.platform.storage import open_folder
from vigc.platform.tracking import RUN_FILE, DataUsed, Tracking, flatten


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return (tmp_path / "mlruns").as_uri()


def track(uri: str, folder: Path, **options: object) -> Tracking:
    params = {"recipe": {"name": "paper_7b", "batch_size": 8}, "data": "x" * 1000}
    options = {"experiment": "vigc train", "name": "run", "params": params, **options}
    return Tracking(uri, folder=open_folder(folder), **options)  # type: ignore[arg-type]


def run_of(uri: str, folder: Path):  # type: ignore[no-untyped-def]
    return mlflow.MlflowClient(uri).get_run(json.loads((folder / RUN_FILE).read_text())["run_id"])


def test_params_figures_tables_and_files_arrive(tmp_path: Path, store: str) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with track(store, tmp_path) as run:
        for step in range(1200):
            run.metrics(step, {"loss": 1.0 / (step + 1), "lr": 0.1})
        run.table("predictions/000010", {"picture": [np.zeros((8, 8, 3), np.uint8)], "said": ["A cat."]})
        run.file(tmp_path / "notes.txt")
        assert run.close() == 0
    client, found = mlflow.MlflowClient(store), run_of(store, tmp_path)
    assert found.info.status == "FINISHED"
    assert found.data.params["recipe.batch_size"] == "8"
    assert len(found.data.params["data"]) == tracking.PARAM_LENGTH
    losses = client.get_metric_history(found.info.run_id, "loss")
    assert sorted((m.step, m.value) for m in losses) == [(step, 1.0 / (step + 1)) for step in range(1200)]
    artifacts = {a.path for a in client.list_artifacts(found.info.run_id)}
    assert {"notes.txt", "predictions"} <= artifacts
    table = json.loads(Path(client.download_artifacts(found.info.run_id, "predictions/000010.json")).read_text())
    (row,) = table["data"]
    assert row[table["columns"].index("said")] == "A cat."
    picture = row[table["columns"].index("picture")]
    assert Path(client.download_artifacts(found.info.run_id, picture["filepath"])).stat().st_size > 0


def test_the_run_says_what_it_read_who_made_it_and_where_its_weights_lie(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USER", "ada")
    data = [
        DataUsed("20 records", "a" * 64, ("LLaVA file x.json: 20 questions",), "training"),
        DataUsed("5 records", "b" * 64, ("LLaVA file y.json: 5 questions",), "validation"),
    ]
    for _ in range(2):  # also when it is taken up again
        with track(store, tmp_path, data=data, description="Trained weights: `out/weights`"):
            pass
    found = run_of(store, tmp_path)
    used = {d.tags[0].value: d.dataset for d in found.inputs.dataset_inputs}
    assert {context: (u.name, u.digest) for context, u in used.items()} == {
        "training": ("20 records", "a" * 36),
        "validation": ("5 records", "b" * 36),
    }
    assert json.loads(used["training"].source) == {"parts": ["LLaVA file x.json: 20 questions"]}
    assert len(found.inputs.dataset_inputs) == 2
    assert found.data.tags["mlflow.note.content"] == "Trained weights: `out/weights`"
    assert found.data.tags["mlflow.user"] == "ada"


def test_a_run_that_is_taken_up_again_stays_one_run(tmp_path: Path, store: str) -> None:
    for step in (1, 2):
        with track(store, tmp_path) as run:
            run.metrics(step, {"loss": float(step)})
    client, found = mlflow.MlflowClient(store), run_of(store, tmp_path)
    assert [m.step for m in client.get_metric_history(found.info.run_id, "loss")] == [1, 2]
    assert len(client.search_runs([found.info.experiment_id])) == 1


def test_a_run_can_stand_below_another(tmp_path: Path, store: str) -> None:
    parent = track(store, tmp_path / "whole", experiment="vigc experiment")
    parent.metrics(0, {"value": 1.0})
    above = parent.run_id(wait_s=30.0)
    child = track(store, tmp_path / "part", parent=above)
    child.metrics(0, {"value": 1.0})
    assert (child.close(), parent.close()) == (0, 0)
    assert above is not None
    part, whole = (run_of(store, tmp_path / name) for name in ("part", "whole"))
    assert part.data.tags["mlflow.parentRunId"] == above
    assert "mlflow.parentRunId" not in whole.data.tags
    assert part.info.experiment_id == whole.info.experiment_id  # else MLflow's pages show them apart


def test_files_lie_beside_a_database_wherever_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    monkeypatch.chdir(tmp_path)
    with track("sqlite:///mlflow.db", tmp_path / "run") as run:
        run.file(tmp_path / "notes.txt")
        assert run.close() == 0
    found = run_of(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "run")
    assert found.info.status == "FINISHED"
    (stored,) = (tmp_path / tracking.ARTIFACTS).rglob("notes.txt")
    assert stored.read_text() == "hello"


def test_a_run_that_fails_is_marked_so(tmp_path: Path, store: str) -> None:
    with pytest.raises(RuntimeError), track(store, tmp_path):
        raise RuntimeError
    assert run_of(store, tmp_path).info.status == "FAILED"


def test_a_server_that_refuses_costs_nothing_and_is_told_of_once(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(tracking, "CLOSE_S", 1.0)
    uri = f"http://127.0.0.1:{free_port()}"
    notes: list[str] = []
    run = track(uri, tmp_path, on_note=notes.append)
    began = time.monotonic()
    for step in range(100):
        run.metrics(step, {"loss": 1.0})
    assert time.monotonic() - began < tracking._TIMEOUT_S  # of one request; here are a hundred
    wait_until(lambda: notes)
    assert run.close() == 101  # the figures and the end
    assert len(notes) == 1
    assert uri in notes[0]


def test_a_server_that_never_answers_does_not_hold_up_the_end(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(tracking, "CLOSE_S", 1.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        run = track(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path)
        run.metrics(1, {"loss": 1.0})
        began = time.monotonic()
        assert run.close() == 2
        assert time.monotonic() - began < 10  # of the 15 that it would be


def test_what_a_server_missed_while_it_was_away_arrives_later(tmp_path: Path, store: str, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(tracking, "RETRY_S", 0.1)
    notes: list[str] = []
    away = threading.Event()
    away.set()
    deliver = tracking._deliver

    def sometimes(*arguments):  # type: ignore[no-untyped-def]
        if away.is_set():
            raise ConnectionError("gone")
        deliver(*arguments)

    monkeypatch.setattr(tracking, "_deliver", sometimes)
    with track(store, tmp_path, on_note=notes.append) as run:
        run.metrics(1, {"loss": 1.0})
        wait_until(lambda: notes)
        away.clear()
        run.metrics(2, {"loss": 0.5})
        assert run.close() == 0
    history = mlflow.MlflowClient(store).get_metric_history(run_of(store, tmp_path).info.run_id, "loss")
    assert [m.step for m in history] == [1, 2]
    assert ["does not take" in notes[0], "again" in notes[1]] == [True, True]


def test_nested_settings_become_dotted_names() -> None:
    assert flatten({"a": {"b": 1, "c": [1, 2]}, "d": None}) == {"a.b": "1", "a.c": "[1, 2]", "d": "None"}


def test_a_server_that_answers_nonsense_is_a_trouble_like_any_other(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    class Nonsense(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>not MLflow</html>")

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *arguments: object) -> None:
            pass

    monkeypatch.setattr(tracking, "CLOSE_S", 1.0)
    server = HTTPServer(("127.0.0.1", 0), Nonsense)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        notes: list[str] = []
        run = track(f"http://127.0.0.1:{server.server_port}", tmp_path, on_note=notes.append)
        run.metrics(1, {"loss": 1.0})
        wait_until(lambda: notes)
        assert run.close() == 2
        assert len(notes) == 1
    finally:
        server.shutdown()
        server.server_close()


def test_mlflow_says_nothing_of_how_it_makes_its_database(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from vigc.platform.storage import open_folder\n"
        "from vigc.platform.tracking import Tracking\n"
        "out = Path(sys.argv[1])\n"
        "with Tracking(f'sqlite:///{out}/m.db', experiment='x', name='y', folder=open_folder(out), params={}) as run:\n"
        "    run.metrics(1, {'a': 1.0})\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "m.db").exists()
