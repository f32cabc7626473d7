"""A server of our own: it lives as long as whoever started it, and is started again when it dies."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest
from PIL import Image
from tiny_llava import write_tiny_llava
from waiting import wait_until

from vigc.model.completion import Request
from vigc.model.engines.endpoint.engine import EndpointEngine
from vigc.model.engines.endpoint.server import MAX_DEATHS, Server, ServerCommand
from vigc.model.engines.settings import EndpointSettings, EngineSettings
from vigc.model.engines.start import start_engine
from vigc.platform.records import ModelError

SCRIPT = Path(__file__).parents[2] / "helpers" / "vision_server.py"
_FILE = io.BytesIO()
Image.new("RGB", (64, 48), (200, 120, 40)).save(_FILE, "JPEG")
IMAGE = _FILE.getvalue()
COMMAND = ServerCommand((sys.executable, str(SCRIPT), "{port}"), "/health", has_key=False)
# A server that has a process of its own, as vLLM has.
WITH_CHILD = f"""
import os, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
os.execv(sys.executable, [sys.executable, {str(SCRIPT)!r}, sys.argv[1]])
"""


def model_process(server: Server) -> psutil.Process:
    (child,) = psutil.Process(server.pid).children()
    return child


def is_gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_it_is_ready_when_started_and_gone_when_closed() -> None:
    server = Server(COMMAND)
    server.start()
    process = model_process(server)
    assert process.is_running()
    server.close()
    assert not process.is_running()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_whoever_started_it(how: signal.Signals, tmp_path: Path) -> None:
    code = f"""
        import sys, time
        sys.path.insert(0, {str(Path(__file__).parents[2] / "helpers")!r})
        from vigc.model.engines.endpoint.server import Server, ServerCommand
        server = Server(ServerCommand({COMMAND.arguments!r}, "/health", has_key=False))
        server.start()
        print(server.pid, flush=True)
        time.sleep(600)
    """
    starter = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert starter.stdout is not None
    guardian = psutil.Process(int(starter.stdout.readline()))
    processes = [guardian, *guardian.children()]
    assert len(processes) == 2
    starter.send_signal(how)
    starter.wait()
    wait_until(lambda: not any(process.is_running() for process in processes))


def test_when_it_dies_it_is_started_again_and_what_was_under_way_is_asked_again() -> None:
    server = Server(COMMAND)
    server.start()

    async def ask() -> list[str]:
        engine = EndpointEngine(EndpointSettings(server.url, "tiny-vision", patience_s=60), server=server)
        async with engine.image(IMAGE) as image:
            first = await engine.complete(image, Request("", "Describe one."))
            model_process(server).kill()
            second = await engine.complete(image, Request("", "Describe two."))
        await engine.aclose()
        return [first.text, second.text]

    first, second = asyncio.run(ask())
    assert first
    assert second


@pytest.mark.parametrize("victim", ["guardian", "server", "starter"])
def test_whatever_is_killed_nothing_that_the_server_started_is_left(victim: str) -> None:
    server = Server(ServerCommand((sys.executable, "-c", WITH_CHILD, "{port}"), "/health", has_key=False))
    server.start()
    processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    assert len(processes) == 3
    if victim == "starter":
        assert server._process is not None
        assert server._process.stdin is not None
        server._process.stdin.close()  # as the kernel does
    else:
        processes[victim == "server"].kill()
        wait_until(server.keep)
    wait_until(lambda: all(is_gone(process) for process in processes))
    server.close()


def test_one_that_cannot_start_says_why() -> None:
    with pytest.raises(ModelError, match="did not start. It said last:\n.*no such thing"):
        Server(
            ServerCommand((sys.executable, "-c", "raise SystemExit('no such thing')"), "/health", has_key=False)
        ).start()


def test_one_that_dies_again_and_again_is_given_up() -> None:
    server = Server(COMMAND)
    server.start()
    for _ in range(MAX_DEATHS - 1):
        model_process(server).kill()
        wait_until(server.keep)
    model_process(server).kill()

    def given_up() -> bool:
        try:
            server.keep()
        except ModelError as error:
            return "died 3 times in a row" in str(error)
        return False

    wait_until(given_up)
    server.close()


@pytest.mark.slow
def test_transformers_serves_a_model_of_any_family(tmp_path: Path) -> None:
    folder = str(write_tiny_llava(tmp_path))
    endpoint = EndpointSettings("", folder, concurrency=1, patience_s=60)
    engine = start_engine(
        EngineSettings(engine="transformers", model=folder, device="cpu", dtype="float32", endpoint=endpoint)
    )

    async def ask() -> tuple[str, str, int, list[str]]:
        assert isinstance(engine, EndpointEngine)
        assert engine.image_form.max_pixels
        async with engine.image(IMAGE) as image:
            one = await engine.complete(image, Request("", "Describe the image.", max_tokens=8))
            two = await engine.complete(image, Request("", "Describe the image.", max_tokens=8))
            drawn = [
                await engine.complete(image, Request("", "Describe it.", max_tokens=8, temperature=1.0, seed=seed))
                for seed in (1, 1, 2)
            ]
            usage = engine.usage(image)
        await engine.aclose()
        assert usage is not None
        return one.text, two.text, usage.num_prompt, [each.text for each in drawn]

    one, two, num_read, drawn = asyncio.run(ask())
    assert one == two
    assert one.strip()
    assert num_read > 20
    assert drawn[0] == drawn[1] != drawn[2]
