"""One Ray for the whole test session, and the helpers that its workers must be able to import."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vigc.serve.settings import LEAN

if TYPE_CHECKING:
    from gcs_server import GcsServer
    from s3_server import S3Server

ROOT = Path(__file__).parents[1]
HELPERS = ROOT / "tests" / "helpers"
SCRIPTS = ROOT / "tests" / "benchmarks" / "scripts"

# A shell has its background jobs ignore Ctrl-C, and every process that a test starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path[:0] = [str(HELPERS), str(SCRIPTS)]
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(HELPERS), os.environ.get("PYTHONPATH", "")])
os.environ.pop("RAY_ADDRESS", None)
os.environ.update(
    RAY_AUTH_MODE="disabled",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S="600",  # a deadlock fails here instead of waiting half an hour
    RAY_DATA_DISABLE_PROGRESS_BARS="1",
    MLFLOW_TRACKING_URI="none",  # where a test does not say otherwise
    **LEAN,
)


@pytest.fixture(scope="session")
def ray_folder() -> Iterator[None]:
    """Ray's sessions go to a folder of this test session; a short one, because Ray puts sockets in it."""
    folder = tempfile.mkdtemp(prefix="vr")
    os.environ["RAY_TMPDIR"] = folder
    yield
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def shared_ray(ray_folder: None) -> Iterator[None]:
    import ray
    import ray.data  # its log handler keeps the stderr of now, which is not that of a verb whose words are looked at

    from vigc.platform.pipeline.ray_session import init_ray

    init_ray(
        address="local",
        num_cpus=max(4, os.cpu_count() or 1),
        object_store_memory=300 * 2**20,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        log_to_driver=False,
        _system_config={"metrics_report_interval_ms": 1000},
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One real S3 server for the session. A test that kills it starts it again."""
    from s3_server import S3Server

    server = S3Server(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def s3_place(s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """An address in S3 at which nothing is yet, and an environment in which it can be reached, and nothing else."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    absent = str(tmp_path / "absent")
    settings = {"AWS_CONFIG_FILE": absent, "AWS_SHARED_CREDENTIALS_FILE": absent, "AWS_EC2_METADATA_DISABLED": "true"}
    for name, value in {**settings, **s3.env}.items():
        monkeypatch.setenv(name, value)
    return f"s3://{s3.bucket}/{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GcsServer]:
    from gcs_server import GcsServer

    server = GcsServer(tmp_path_factory.mktemp("gcs") / "log")
    yield server
    server.kill()


@pytest.fixture
def gcs_place(gcs: GcsServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """An address in Google Cloud Storage at which nothing is yet, and an environment in which it can be reached."""
    from gcs_server import BUCKET

    for name, value in gcs.env.items():
        monkeypatch.setenv(name, value)
    return f"gs://{BUCKET}/{uuid.uuid4().hex[:12]}"


# `make test` runs the tests without a mark, `make test-all` the slow ones, `make soak` the long proofs.
TIERS = {"soak": "make soak", "slow": "make test-all"}
ALLOWED_SKIPS = (
    "vLLM is not installed",  # it has an environment of its own
    "chromium is not installed",
    "no file system can be mounted here",
    "network namespaces need root",
    "PostgreSQL is not installed",
)
# The files that take longest come first, so that two processes that take a file at a time end together.
LONG_FILES = (
    "jobs/train/test_train.py",
    "jobs/submit/test_submit.py",
    "jobs/generate/test_generate.py",
    "jobs/generate/test_passes.py",
    "platform/pipeline/test_faults.py",
    "platform/pipeline/test_run.py",
    "serve/test_service.py",
    "serve/test_page.py",
    "model/training/test_embedded_training.py",
    "model/training/test_training.py",
    "jobs/train/test_finetune.py",
    "model/test_embedded.py",
    "jobs/bench/test_bench.py",
)
_left: Counter[str] = Counter()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The long proofs run where they are asked for, by `-m soak`."""
    if "soak" not in str(config.getoption("markexpr")):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("soak")])
        items[:] = [item for item in items if not item.get_closest_marker("soak")]
    ranks = {ROOT / "tests" / name: rank for rank, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


def pytest_deselected(items: Iterable[pytest.Item]) -> None:
    for item in items:
        tiers = (command for mark, command in TIERS.items() if item.get_closest_marker(mark))
        _left[next(tiers, "make test")] += 1


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Each process of xdist selects for itself, and all alike."""
    _left.update(getattr(node, "workeroutput", {}).get("left", {}) if not _left else {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for command, number in sorted(_left.items()):
        terminalreporter.write_line(f"left for `{command}`: {number}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A skipped test fails the run unless its reason is one of those above."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left"] = dict(_left)
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    for report in reporter.stats.get("skipped", []) if reporter else []:
        if not any(reason in str(report.longrepr) for reason in ALLOWED_SKIPS):
            reporter.write_line(f"not allowed by tests/conftest.py: the skip of {report.nodeid}", red=True)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
