"""A Ray cluster as users start one, by `ray start`, on ports of its own; ended by process ids and nothing broader.

With `autoscaling`, nodes come and go by Ray's autoscaler: its provider for tests starts them on this machine.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from ports import HOST, free_ports
from processes import ENDS_WITH_PARENT
from waiting import WAIT_S, wait_until

BIN = Path(sys.executable).parent
OBJECT_STORE_BYTES = 100 * 2**20
NUM_STARTS = 3


class RayCluster:
    """A head node without GPUs, and what it starts.

    Args:
        folder: for sessions and logs; short, because Ray puts sockets in it.
        env: beside this process's.
        autoscaling: CPUs of a worker node, and how many such nodes there may be.
    """

    def __init__(
        self,
        folder: Path,
        *,
        num_cpus: int,
        dashboard: bool = True,
        env: dict[str, str] | None = None,
        autoscaling: tuple[int, int] | None = None,
    ) -> None:
        self.folder, self._num_cpus, self._dashboard = folder, num_cpus, dashboard
        self._gcs, self._web, *self._others = free_ports(7)
        self._autoscaling = autoscaling
        self._process: subprocess.Popen[bytes] | None = None
        self.env = {
            **os.environ,
            "RAY_TMPDIR": str(folder),
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_agent_register_timeout_ms": "180000",  # else a head on a busy machine may end after half a minute
            "RAY_raylet_start_wait_time_s": "60",
            "PATH": f"{BIN}:{os.environ['PATH']}",
            **(env or {}),
        }
        self.env.pop("RAY_ADDRESS", None)
        (folder / "ray").mkdir(parents=True, exist_ok=True)

    @property
    def address(self) -> str:
        return f"{HOST}:{self._gcs}"

    @property
    def url(self) -> str:
        """Of the dashboard, which takes jobs."""
        return f"http://{HOST}:{self._web}"

    def start(self) -> RayCluster:
        """Started again where its processes did not come up in time, as `init_ray` does it on a busy machine."""
        for _ in range(NUM_STARTS - 1):
            self._start()
            if self._comes_up():
                return self
            self._kill()
            self._gcs, self._web, *self._others = free_ports(7)
        self._start()
        assert self._comes_up(), self._head_log()
        return self

    def _start(self) -> None:
        agent, metrics, client, runtime_env, agent_grpc = self._others
        options: dict[str, Any] = {
            "node-ip-address": HOST,
            "port": self._gcs,
            "num-cpus": self._num_cpus,
            "num-gpus": 0,
            "include-dashboard": str(self._dashboard).lower(),
            "dashboard-port": self._web,
            "dashboard-agent-listen-port": agent,
            "dashboard-agent-grpc-port": agent_grpc,
            "metrics-export-port": metrics,
            "ray-client-server-port": client,
            "runtime-env-agent-port": runtime_env,
            "min-worker-port": 0,
            "max-worker-port": 0,
            "object-store-memory": OBJECT_STORE_BYTES,
        }
        env = dict(self.env)
        if self._autoscaling:
            file = self.folder / "autoscaling.json"
            file.write_text(json.dumps(self._autoscaling_config(*self._autoscaling)))
            options["autoscaling-config"] = file
            env |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        self._process = self._ray_start("head.log", env, "--head", "--disable-usage-stats", **options)

    def add_node(self, *, num_cpus: int, num_gpus: int = 0) -> None:
        """Another node, which is there when this returns. Its GPUs are logical: numbers that Ray counts with."""
        agent, agent_grpc, metrics, runtime_env = free_ports(4)
        node = self._ray_start(
            "node.log",
            self.env,
            **{
                "address": self.address,
                "node-ip-address": HOST,
                "num-cpus": num_cpus,
                "num-gpus": num_gpus,
                "dashboard-agent-listen-port": agent,
                "dashboard-agent-grpc-port": agent_grpc,
                "metrics-export-port": metrics,
                "runtime-env-agent-port": runtime_env,
                "min-worker-port": 0,
                "max-worker-port": 0,
                "object-store-memory": OBJECT_STORE_BYTES,
            },
        )
        log = self.folder / "node.log"
        wait_until(lambda: "Ray runtime started" in log.read_text(errors="replace"), process=node)

    def _ray_start(self, log: str, env: dict[str, str], *flags: str, **options: object) -> subprocess.Popen[bytes]:
        command = [str(BIN / "ray"), "start", "--block", *flags]
        command += [f"--{name}={value}" for name, value in options.items()]
        with open(self.folder / log, "ab") as file:
            return subprocess.Popen(
                [*ENDS_WITH_PARENT, sys.executable, *command],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def _comes_up(self) -> bool:
        """False: Ray gave up waiting for its own processes."""
        end = time.monotonic() + WAIT_S
        while not self._is_up():
            assert self._process is not None
            if self._process.poll() is not None:
                assert "timed out during startup" in self._head_log(), self._head_log()
                return False
            assert time.monotonic() < end, self._head_log()
            time.sleep(0.3)
        return True

    def _head_log(self) -> str:
        """Of the newest start."""
        whole = (self.folder / "head.log").read_text(errors="replace")
        return whole[whole.rfind("Usage stats collection is disabled") :]

    def _is_up(self) -> bool:
        if self._dashboard:
            with suppress(OSError), urllib.request.urlopen(f"{self.url}/api/jobs/", timeout=2) as answer:
                return bool(answer.status == 200)
            return False
        return "Ray runtime started" in self._head_log()

    def _autoscaling_config(self, cpus: int, most: int) -> dict[str, Any]:
        return {
            "cluster_name": "fake",
            "max_workers": most,
            "upscaling_speed": 100.0,
            "idle_timeout_minutes": 0.1,
            "provider": {
                "type": "fake_multinode",
                "gcs_address": self.address,
                "use_node_id_as_ip": True,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
            },
            "available_node_types": {
                "ray.head.default": {"resources": {"CPU": self._num_cpus}, "node_config": {}, "max_workers": 0},
                "worker": {
                    "resources": {"CPU": cpus, "object_store_memory": OBJECT_STORE_BYTES},
                    "node_config": {},
                    "min_workers": 0,
                    "max_workers": most,
                },
            },
            "head_node_type": "ray.head.default",
            **{name: {} for name in ("auth", "docker", "file_mounts")},
            **{
                name: []
                for name in (
                    "initialization_commands",
                    "setup_commands",
                    "head_setup_commands",
                    "worker_setup_commands",
                    "head_start_ray_commands",
                    "worker_start_ray_commands",
                    "cluster_synced_files",
                    "rsync_exclude",
                    "rsync_filter",
                )
            },
            "file_mounts_sync_continuously": False,
        }

    def processes(self) -> list[psutil.Process]:
        """All of this cluster, found by its folder, which nothing else names."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("RAY_TMPDIR") == str(self.folder) and process.pid != os.getpid():
                    found.append(process)
        return found

    def raylets(self) -> list[psutil.Process]:
        """Of the worker nodes, without the head's."""
        found = []
        for process in self.processes():
            with suppress(psutil.Error):
                words = process.cmdline()
                if words and words[0].endswith("/raylet") and "--head" not in words:
                    found.append(process)
        return found

    def last_words(self) -> str:
        """The ends of its logs, where it has died; else nothing."""
        if self._process is None or (self._process.poll() is None and self._is_up()):
            return ""
        names = ("dashboard.log", "dashboard.err", "dashboard_agent.log", "raylet.out", "raylet.err", "gcs_server.out")
        logs = [self.folder / "head.log"]
        logs += [file for name in names for file in sorted(self.folder.glob(f"ray/session_2*/logs/{name}"))]
        ends = [(file, file.read_text(errors="replace").splitlines()[-20:]) for file in logs]
        return "".join(f"--- the end of {file.name}\n" + "\n".join(lines) + "\n" for file, lines in ends)

    def stop(self) -> None:
        print(self.last_words(), end="")  # pytest shows it if a test has failed
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=5)
        self._kill()

    def _kill(self) -> None:
        left = self.processes()
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=10)
