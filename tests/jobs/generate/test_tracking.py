"""What a run shows beside the terminal: its history in MLflow, its present on Ray's metrics port."""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
from ports import free_port
from waiting import WAIT_S, wait_until

from vigc.jobs.generate.config import GenerateConfig
from vigc.jobs.generate.plan import tracking_uri
from vigc.jobs.generate.run import Outcome, run_generate
from vigc.platform import tracking
from vigc.platform.pipeline import metrics
from vigc.platform.records import ConfigError
from vigc.platform.storage import LocalFolder
from vigc.platform.storage.s3 import S3Folder


def asked(pictures: Path, out: Path, **changes: object) -> GenerateConfig:
    return GenerateConfig(images=str(pictures), out=str(out), kinds=["conversation"], slots=2, **changes)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_killed_run_and_its_continuation_are_one_mlflow_run_with_two_attempts(
    scenes_dir: Path, tmp_path: Path, vigc_started, shared_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, uri = tmp_path / "data", f"sqlite:///{tmp_path}/mlflow.db"
    note = out / "passes" / "001" / tracking.RUN_FILE
    command = ("generate", scenes_dir, "--out", out, "--kinds", "conversation", "--slots", 2, "--tracking", uri)
    with vigc_started(*command) as killed:
        wait_until(lambda: note.exists() and "attempt_id" in json.loads(note.read_text()))
        os.kill(killed.pid, signal.SIGKILL)
    first = json.loads(note.read_text())

    outcome = run_generate(asked(scenes_dir, out, tracking=uri, price=2.0))

    client, known = mlflow.MlflowClient(uri), json.loads(note.read_text())
    assert known["run_id"] == first["run_id"]
    assert known["attempt_id"] != first["attempt_id"]
    run = client.get_run(known["run_id"])
    attempts = client.search_runs(
        [run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{known['run_id']}'", order_by=["start_time ASC"]
    )
    assert [(one.info.run_id, one.info.status) for one in attempts] == [
        (first["attempt_id"], "KILLED"),
        (known["attempt_id"], "FINISHED"),
    ]
    assert run.info.status == "FINISHED"
    assert run.data.params["kinds"] == "['conversation']"
    assert attempts[1].data.params["versions.ray"]
    assert attempts[1].data.params["config.slots"] == "2"
    figures, summary = run.data.metrics, outcome.summary
    assert (figures["images_done"], figures["tokens"]) == (12, summary["num_tokens"])
    assert figures["images_per_s"] > 0
    assert outcome.cost is not None
    assert 0 < figures["cost"] <= outcome.cost  # which goes on until the summary is written
    chair = summary["hallucination"]["kinds"]["conversation"]
    for answer in ("vig", "vic"):
        assert figures[f"chair_i.conversation.{answer}"] == chair[answer]["chair_i"]["value"]
        assert figures[f"chair_i.{answer}"] == pytest.approx(chair[answer]["chair_i"]["value"])  # live, and the same
    artifacts = {a.path for a in client.list_artifacts(known["run_id"])}
    assert artifacts == {"summary.json", "report.html"}
    assert json.loads(Path(client.download_artifacts(known["run_id"], "summary.json")).read_text()) == summary
    assert client.list_artifacts(known["attempt_id"]) == []
    assert {one.name for one in tmp_path.iterdir()} == {"data", "mlflow.db", "mlartifacts"}  # as mlflow ui wants them


@dataclass(frozen=True)
class Watched:
    outcome: Outcome
    uri: str  # of a tracking server that is not there
    notes: list[str]
    metrics: dict[str, float]  # seen on Ray's port, the newest of each name


@pytest.fixture(scope="module")
def watched(scenes_dir: Path, tmp_path_factory: pytest.TempPathFactory, shared_ray: None) -> Watched:
    """Three pictures and a file that is none, with a tracking server that is down, looked at all the while."""
    import ray

    folder, out = tmp_path_factory.mktemp("pictures"), tmp_path_factory.mktemp("out") / "data"
    for picture in sorted((scenes_dir / "images").iterdir())[:3]:
        (folder / picture.name).write_bytes(picture.read_bytes())
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    uri = f"http://127.0.0.1:{free_port()}"
    port = ray.nodes()[0]["MetricsExportPort"]
    notes: list[str] = []
    seen: dict[str, float] = {}

    def scrape(_: object = None) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=WAIT_S) as answer:
            for line in answer.read().decode().splitlines():
                match = re.match(r"(ray_vigc_\w+){(.*)} (\S+)$", line)
                if match and f'run="{out}' in match[2]:
                    seen[match[1]] = float(match[3])

    config = asked(folder, out, tracking=uri, price=1.0)
    outcome = run_generate(config, on_progress=scrape, on_note=notes.append)
    wait_until(lambda: scrape() or seen.get("ray_vigc_images_done") == 4, pause_s=0.5)  # the last report comes late
    return Watched(outcome, uri, notes, seen)


def test_a_tracking_server_that_is_down_is_told_of_once_and_the_run_is_none_the_worse(watched: Watched) -> None:
    assert watched.outcome.summary["num_ok"] == 3
    first, last = watched.notes
    assert watched.uri in first
    assert "never took" in last


def test_every_metric_is_on_rays_port_while_a_run_is_at_work(watched: Watched) -> None:
    unknown = {metrics.CHAIR.exported_name}  # nobody annotated these pictures
    assert set(watched.metrics) == metrics.exported_names() - unknown
    assert (watched.metrics["ray_vigc_images_done"], watched.metrics["ray_vigc_images_total"]) == (4, 4)
    assert watched.metrics["ray_vigc_images_failed_total"] == 1
    assert watched.metrics["ray_vigc_tokens_total"] == watched.outcome.summary["num_tokens"]
    assert watched.metrics["ray_vigc_cost"] > 0


def test_without_mlflow_a_run_goes_untracked_unless_tracking_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = LocalFolder(str(tmp_path / "data"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking_uri(None, out) == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking_uri("none", out) is None
    assert tracking_uri(None, S3Folder("s3://bucket/data")) is None  # a folder of this machine's would be lost
    monkeypatch.setattr("vigc.platform.tracking.find_spec", lambda name: None)
    assert tracking_uri(None, out) is None
    with pytest.raises(ConfigError, match="not installed"):
        tracking_uri("http://mlflow:5000", out)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert tracking_uri("none", out) is None
    with pytest.raises(ConfigError, match="not installed"):
        tracking_uri(None, out)
