"""`vigc serve`: the service on this machine, or on the cluster at RAY_ADDRESS, for as long as the command runs."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vigc.jobs.serve.config import ServeConfig
from vigc.model.engines.choose import ChosenModel
from vigc.platform.pipeline.hardware import Hardware
from vigc.platform.pipeline.ray_session import CPUS_PER_ACTOR, ray_session
from vigc.platform.records import ConfigError, RunError
from vigc.serve.settings import KEYS_VARIABLE, LEAN, ServeSettings
from vigc.serve.validation import prepare

NAME = "vigc"
GATEWAY_S = 5.0  # for a gateway to say that it has drained
LOCAL = ("127.0.0.1", "::1", "localhost")  # names that only this machine can mean by itself
PACKAGES = ("aiohttp", "fastapi", "openai", "python_multipart", "uvicorn")
Ready = dict[str, Any]


def run_serve(
    config: ServeConfig,
    *,
    on_start: Callable[[str], None],
    on_ready: Callable[[Ready], None],
) -> None:
    """Serves until Ctrl-C, SIGTERM or SIGHUP.

    Args:
        on_start: called when all settings are found good, with what answers and where it runs.
        on_ready: called when requests are answered.
    Raises:
        VigcError: a setting that cannot be used, a service that does not come up, or requests that were not answered
            when it was stopped.
        KeyboardInterrupt: when it was stopped and all requests were answered.
    """
    began, host, port = time.monotonic(), config.host, config.port
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ConfigError(f"The service needs {', '.join(missing)}. Install them: pip install 'vigc[serve]'.")
    settings, chosen, hardware = make_settings(config)
    if host in LOCAL and not settings.requires_key:
        settings = settings.model_copy(update={"host_names": list(LOCAL)})
    _check_port(host, port)
    where = f"{chosen.place.name} at {chosen.place.location}" if chosen.engine == "endpoint" else str(hardware)
    on_start(f"{where}; {chosen.engine}: {chosen.why}" if chosen.why else where)
    most = settings.replica_range[1]
    cpus = (most + settings.gateways) * CPUS_PER_ACTOR
    os.environ.update({name: value for name, value in LEAN.items() if name not in os.environ})
    with (
        tempfile.TemporaryDirectory(prefix="vigc-serve-") as folder,
        ray_session(Path(folder) / "ray.log", cpus, most * (settings.gpus_per_replica or 0)) as logs,
    ):
        _deploy(settings, chosen, host, port)
        try:
            on_ready(_ready(settings, chosen, host, port, logs, time.monotonic() - began))
            threading.Event().wait()
        finally:
            if not _end(settings.drain_s):
                raise RunError("Stopped before all requests were answered.")


def make_settings(config: ServeConfig) -> tuple[ServeSettings, ChosenModel, Hardware]:
    """As `prepare`, and whether keys are there."""
    settings, chosen, hardware = prepare(config.of_service)
    return settings.model_copy(update={"requires_key": bool(os.environ.get(KEYS_VARIABLE))}), chosen, hardware


def in_words(ready: Ready) -> str:
    """What the terminal says when the service is up."""
    keys = (
        f"a key of {KEYS_VARIABLE} is needed"
        if ready["requires_key"]
        else "no key is needed"
        + ("" if ready["is_local"] else f": [bold]whoever reaches {ready['host']} may ask[/bold]; set {KEYS_VARIABLE}")
    )
    where = f"at {ready['endpoint']}" if ready["endpoint"] else f"{ready['engine']} on {ready['device']}"
    engine = f"{where}, {_replicas(ready['replicas'])}"
    return (
        f"ready after {ready['seconds']:.0f} s: {ready['model']}, {engine}, {keys}\n"
        f"  page     {ready['url']}/\n"
        f"  OpenAI   {ready['url']}/v1   (model {ready['model']!r})\n"
        f"  logs     {ready['logs']}\n"
        "Ctrl-C ends it."
    )


def _replicas(number: str) -> str:
    least, _, most = number.partition(":")
    return ("one replica" if most == "1" else f"{most} replicas") if least == most else f"{least} to {most} replicas"


def _ready(settings: ServeSettings, chosen: ChosenModel, host: str, port: int, logs: Path, seconds: float) -> Ready:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return {
        "url": f"http://{shown}:{port}",
        "host": host,
        "is_local": host in LOCAL,
        "model": chosen.place.name,
        "engine": chosen.engine,
        "endpoint": chosen.place.location if chosen.engine == "endpoint" else None,
        "device": settings.device,
        "replicas": "{}:{}".format(*settings.replica_range),
        "requires_key": settings.requires_key,
        "seconds": seconds,
        "logs": str(logs / "serve"),
    }


def _check_port(host: str, port: int) -> None:
    """Serve would only say much later, and to a log, that it cannot listen."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise ConfigError(
            f"{host}:{port} cannot be listened on ({error.strerror or error}). Choose another --port or --host."
        ) from error


def _deploy(settings: ServeSettings, chosen: ChosenModel, host: str, port: int) -> None:
    import logging

    from ray import serve

    from vigc.serve.app import application

    app = application(settings, chosen)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # of this process; those of the parts go to their logs
    try:
        serve.start(http_options={"host": host, "port": port})
        serve.run(app, name=NAME, route_prefix="/")
    except RuntimeError as error:
        reason = _reason() or str(error)
        _end()
        raise RunError(f"The service did not start: {reason}") from error
    except BaseException:
        _end()
        raise


def _reason() -> str | None:
    """What Serve knows about why a part does not start: the last line of the first traceback."""
    from ray import serve

    application = serve.status().applications.get(NAME)
    messages = [] if application is None else [part.message for part in application.deployments.values()]
    for message in messages:
        if lines := [line.strip() for line in message.splitlines() if line.strip()]:
            return lines[-1]
    return None


def _end(drain_s: float = 0) -> bool:
    """Ends Serve. Whether all requests under way were answered before, which Ctrl-C stops waiting for.

    Serve itself would end gateways and replicas at the same time, and a request at a gateway would find no replica.
    """
    from ray import serve

    async def end() -> bool:  # LEAN lets handles work inside an event loop only
        try:
            if drain_s:
                drained = serve.get_app_handle(NAME).broadcast("drain")
                return all(await drained.results_async(timeout_s=drain_s + GATEWAY_S))
            return True
        except (asyncio.CancelledError, TimeoutError):
            return False
        finally:
            await serve.shutdown_async()  # type: ignore[no-untyped-call]

    with _ignored(signal.SIGTERM, signal.SIGHUP):
        return asyncio.run(end())


@contextmanager
def _ignored(*signals: signal.Signals) -> Iterator[None]:
    before = [signal.signal(one, signal.SIG_IGN) for one in signals]
    try:
        yield
    finally:
        for one, previous in zip(signals, before, strict=True):
            signal.signal(one, previous)
