"""The service in this process, and on a real Ray Serve; the same routes, engine and model in both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from local_service import LocalService, data_uri
from ports import free_port
from starlette.testclient import TestClient

from vigc.jobs.scenes import make_scenes
from vigc.serve.samples import samples
from vigc.serve.settings import ServeSettings


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "scenes"
    make_scenes(folder, num=8, seed=31, min_objects=5, max_objects=9)
    return folder


@pytest.fixture(scope="session")
def jpeg() -> bytes:
    """A JPEG of a scene of nine objects."""
    return samples()["scene-2"].jpeg


@pytest.fixture(scope="session")
def uri(jpeg: bytes) -> str:
    return data_uri(jpeg)


@pytest.fixture(scope="session")
def local() -> Iterator[LocalService]:
    service = LocalService(ServeSettings())
    yield service
    service.close()


@pytest.fixture
def client(local: LocalService) -> TestClient:
    return local.client


SMALL = {"replicas": "1", "max_ongoing": 4, "max_queued": 4, "body_timeout_s": 8, "drain_s": 30, "allow_hosts": ["*"]}


@dataclass
class Served:
    """An application on Ray Serve."""

    url: str
    settings: ServeSettings

    def deploy(self) -> None:
        """Deploys it; again: redeploys it, as another version."""
        from ray import serve

        from vigc.serve.app import build

        serve.run(build(self.settings), name="vigc", route_prefix="/")


@pytest.fixture(scope="module")
def served(shared_ray: None) -> Iterator[Served]:
    """One replica with room for four requests, and a queue for four more."""
    from ray import serve

    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    service = Served(f"http://127.0.0.1:{port}", ServeSettings(**SMALL))
    service.deploy()
    yield service
    serve.shutdown()
