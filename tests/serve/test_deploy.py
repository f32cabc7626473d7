"""The service on a cluster that runs already: `serve deploy` with the project's file, and again with another version.

Run by `make soak`. Of the file, only the model, its GPU and the ports give way to what this machine has.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

import pytest
import yaml
from local_service import data_uri
from ports import free_port
from ray_cluster import BIN, RayCluster
from waiting import WAIT_S, wait_until

from vigc.serve.samples import samples
from vigc.serve.settings import LEAN

pytestmark = pytest.mark.soak

FILE = Path(__file__).parents[2] / "cluster" / "serve.yaml"
KEY = "a-key-of-this-test"
HERE = {"model": None, "gpus_per_replica": 0, "gateways": 1, "replicas": "1:2", "threads": 1}
ROOT = FILE.parents[1]


@pytest.fixture
def cluster() -> Iterator[RayCluster]:
    folder = Path(tempfile.mkdtemp(prefix="vd"))
    made = RayCluster(folder, num_cpus=4, env={**LEAN, "VIGC_API_KEYS": KEY, "PYTHONPATH": str(ROOT)})
    try:
        yield made.start()
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


class Deployed:
    """The file of one port, deployed as often as one likes."""

    def __init__(self, cluster: RayCluster, folder: Path) -> None:
        self._cluster, self._file = cluster, folder / "serve.yaml"
        self._config = yaml.safe_load(FILE.read_text())
        self._config["http_options"] = {"host": "127.0.0.1", "port": free_port()}
        self.url = f"http://127.0.0.1:{self._config['http_options']['port']}"

    def deploy(self, **changes: object) -> None:
        self._config["applications"][0]["args"] |= HERE | changes
        self._file.write_text(yaml.safe_dump(self._config))
        command = [str(BIN / "serve"), "deploy", str(self._file), "--address", self._cluster.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, env=self._cluster.env)
        assert done.returncode == 0, done.stdout + done.stderr

    def status(self) -> str:
        command = [str(BIN / "serve"), "status", "--address", self._cluster.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, env=self._cluster.env)
        return str(yaml.safe_load(done.stdout)["applications"]["vigc"]["status"])

    def call(self, path: str, body: object = None, key: str = KEY) -> tuple[int, str]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(self.url + path, data, headers), timeout=WAIT_S
            ) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()


def test_the_file_is_deployed_and_a_second_version_takes_over_without_losing_a_request(cluster, tmp_path):
    service = Deployed(cluster, tmp_path)
    service.deploy()
    wait_until(lambda: service.status() == "RUNNING")
    body = {"image": data_uri(samples()["scene-2"].jpeg), "kinds": ["conversation"]}
    assert service.call("/v1/vigc", body, key="another")[0] == 401
    status, text = service.call("/v1/vigc", body)
    assert status == 200
    said = json.loads(text)["conversations"][0]["answer"]

    answers: list[tuple[int, str]] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            answers.append(service.call("/v1/vigc", body))

    asking = [threading.Thread(target=ask) for _ in range(3)]
    for one in asking:
        one.start()
    try:
        wait_until(lambda: len(answers) >= 3)
        service.deploy(max_question_chars=3)
        wait_until(lambda: service.call("/v1/vigc", body | {"question": "How many cups are there?"})[0] == 400)
        wait_until(lambda: service.status() == "RUNNING")
        deployed_at = len(answers)
        wait_until(lambda: len(answers) >= deployed_at + 6)
    finally:
        over.set()
        for one in asking:
            one.join()
    assert [text for status, text in answers if status != 200] == []
    assert {json.loads(text)["conversations"][0]["answer"] for _, text in answers} == {said}
