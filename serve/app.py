"""The Ray Serve application: gateways that speak HTTP, and replicas of an engine behind them.

`vigc serve`, `serve run vigc.serve.app:build` and `serve deploy` with a file that names it all use `build`. The number
of replicas follows the requests under way, within the range of the settings.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from vigc.model.engines.choose import ChosenModel
from vigc.model.weights.identity import identify_place
from vigc.platform.records import ConfigError
from vigc.serve import jsonl
from vigc.serve.conversations import ConversationService
from vigc.serve.errors import unavailable
from vigc.serve.gateway import make_app
from vigc.serve.images import ImageLoader
from vigc.serve.metrics import Metrics, RayMetrics
from vigc.serve.middleware import AllowedHosts, ApiKeys, RequestMiddleware, protects
from vigc.serve.replica import EngineReplica
from vigc.serve.replica_client import ReplicaClient
from vigc.serve.settings import KEYS_VARIABLE, ServeSettings
from vigc.serve.validation import find_objects, prepare

PROTECTED = ("/v1", "/metrics")
READY_S = 5.0
ARRIVE_S = 1.0  # in which requests come to a gateway that Serve's proxy has taken already
MAX_OPEN = 1000  # requests of a gateway; the queue of max_queued comes after it
CPUS_OF_A_REPLICA, CPUS_OF_A_GATEWAY = 0.5, 0.25


def build(settings: ServeSettings | Mapping[str, Any]) -> Application:
    """The application of these settings, not yet deployed.

    Args:
        settings: a mapping where they come from the `args` of a Serve file.
    Raises:
        VigcError: a setting that cannot be used.
        ValueError: a key or value of the mapping that is no setting.
    """
    prepared, chosen, _ = prepare(ServeSettings.model_validate(settings))
    return application(prepared, chosen)


def application(settings: ServeSettings, chosen: ChosenModel) -> Application:
    """The application of prepared settings."""
    least, most = settings.replica_range
    # `serve.deployment` is untyped; its options are checked by Ray.
    replica = serve.deployment(EngineReplica).options(  # type: ignore[attr-defined]
        name="EngineReplica",
        ray_actor_options={"num_cpus": CPUS_OF_A_REPLICA, "num_gpus": settings.gpus_per_replica or 0},
        max_ongoing_requests=settings.max_ongoing,
        max_queued_requests=settings.max_queued,
        graceful_shutdown_timeout_s=settings.drain_s,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=2.0,
        health_check_timeout_s=30.0,
        logging_config=LoggingConfig(encoding="JSON"),
        **(
            {"num_replicas": least}
            if least == most
            else {
                "autoscaling_config": AutoscalingConfig(
                    min_replicas=least,
                    max_replicas=most,
                    target_ongoing_requests=settings.target_ongoing or max(1.0, settings.max_ongoing / 2),
                    upscale_delay_s=settings.upscale_delay_s,
                    downscale_delay_s=settings.downscale_delay_s,
                    metrics_interval_s=1.0,
                    look_back_period_s=5.0,
                )
            }
        ),
    )
    gateway = serve.deployment(serve.ingress()(Gateway)).options(  # type: ignore[attr-defined]
        name="Gateway",
        num_replicas=settings.gateways,
        ray_actor_options={"num_cpus": CPUS_OF_A_GATEWAY},
        max_ongoing_requests=MAX_OPEN,
        graceful_shutdown_timeout_s=settings.drain_s,
        graceful_shutdown_wait_loop_s=0.5,
        logging_config=LoggingConfig(encoding="JSON", enable_access_log=False),  # middleware.py logs each request
    )
    bound: Application = gateway.bind(settings, chosen, replica.bind(settings, chosen))
    return bound


class Gateway:
    """The deployment around `make_app`."""

    def __init__(self, settings: ServeSettings, chosen: ChosenModel, replica: DeploymentHandle[EngineReplica]) -> None:
        self._settings, self._chosen, self._replica = settings, chosen, replica
        self._keys = ApiKeys(os.environ.get(KEYS_VARIABLE, ""))
        if settings.requires_key and not self._keys:
            raise ConfigError(f"{KEYS_VARIABLE} is empty where the gateway runs, and the settings want a key.")
        self._weights: str | None = None
        self._metrics, self._is_stopping = RayMetrics(), False

    def __serve_build_asgi_app__(self) -> ASGIApp:
        settings, metrics = self._settings, self._metrics
        ask = ReplicaClient(self._replica.options(stream=True).converse, settings.answer_timeout_s, metrics)
        conversations = ConversationService(settings, self._chosen, find_objects(settings), ask)
        images = ImageLoader(settings, self._chosen.image_form)
        app = make_app(conversations, images, self._ready, lambda: self._weights)
        return with_middleware(app, settings, self._keys, metrics, lambda: self._is_stopping)

    async def drain(self) -> bool:
        """Whether all requests were answered within drain_s. New ones get status 503 meanwhile and afterwards."""
        try:
            async with asyncio.timeout(self._settings.drain_s):
                await asyncio.sleep(ARRIVE_S)
                self._is_stopping = True
                while self._metrics.num_open:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            return False
        return True

    async def _ready(self) -> dict[str, Any]:
        from ray.serve.exceptions import BackPressureError

        try:
            async with asyncio.timeout(READY_S):
                found: dict[str, int] = await self._replica.load.remote()
        except BackPressureError:
            return {"queue": "full"}
        except Exception as error:  # whatever it is, no request can be answered now
            raise unavailable(f"No replica answers ({type(error).__name__}).") from error
        if self._weights is None:
            self._weights = (await asyncio.to_thread(identify_place, self._chosen.place)).weights
        return found


def with_middleware(
    app: ASGIApp,
    settings: ServeSettings,
    keys: ApiKeys,
    metrics: Metrics,
    is_stopping: Callable[[], bool] = lambda: False,
) -> ASGIApp:
    """The application with all that is checked before and after it."""

    def max_body_bytes(type_: str) -> int:
        return settings.max_batch_bytes if type_ in jsonl.TYPES else settings.max_body_bytes

    inner: ASGIApp = RequestMiddleware(
        app,
        keys=keys,
        hosts=AllowedHosts(settings.host_names, settings.cors_origins),
        metrics=metrics,
        is_stopping=is_stopping,
        max_body_bytes=max_body_bytes,
        body_timeout_s=settings.body_timeout_s,
        max_held_bytes=settings.max_held_bytes,
        is_protected=protects(PROTECTED),
    )
    if not settings.cors_origins:
        return inner
    return CORSMiddleware(
        inner,
        allow_origins=settings.cors_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
        expose_headers=["X-Request-ID", "Retry-After"],
    )
