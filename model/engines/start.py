"""How a process that has an engine to itself starts one: actors of a run, replicas of the service, evaluations.

Heavy imports happen when an engine is started; whoever only hands settings on stays light.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from vigc.model.engines.settings import ENGINES, EndpointSettings, EngineSettings
from vigc.platform.records import ConfigError

if TYPE_CHECKING:
    from vigc.model.engines.base import NetworkEngine
    from vigc.model.engines.interface import Engine


def start_engine(settings: EngineSettings) -> Engine:
    """The engine that the settings name. Raises as `start_network_engine`, or as `EndpointEngine`."""
    if settings.engine == "endpoint":
        from vigc.model.engines.endpoint.engine import EndpointEngine
        from vigc.model.engines.endpoint.rereading import RereadingEngine

        if settings.endpoint is None:
            raise ConfigError("The endpoint engine needs an endpoint.")
        if settings.endpoint.image_side is not None:
            return RereadingEngine(settings.endpoint, num_slots=settings.num_slots)
        return EndpointEngine(settings.endpoint, num_slots=settings.num_slots)
    if settings.endpoint is not None:
        return _start_server(settings, settings.endpoint)
    return start_network_engine(settings)


def _start_server(settings: EngineSettings, endpoint: EndpointSettings) -> Engine:
    """A server of our own around the model, and the engine that speaks to it."""
    from vigc.model.engines.endpoint.engine import EndpointEngine
    from vigc.model.engines.endpoint.server import (
        TRANSFORMERS_SAMPLING,
        Server,
        transformers_command,
        vllm_command,
    )
    from vigc.model.engines.vllm.environment import find_python

    if settings.engine == "vllm":
        command = vllm_command(
            find_python(settings.vllm_python),
            settings.model,
            name=endpoint.model,
            num_gpus=settings.num_gpus,
            dtype=settings.dtype,
            num_threads=settings.num_threads,
            extra=settings.server_args,
        )
    else:
        endpoint = replace(endpoint, sampling=TRANSFORMERS_SAMPLING)
        command = transformers_command(
            settings.model,
            device=settings.device,
            dtype=settings.dtype,
            num_threads=settings.num_threads,
            extra=settings.server_args,
        )
    server = Server(command)
    server.start()
    return EndpointEngine(replace(endpoint, url=server.url), num_slots=settings.num_slots, server=server)


def start_network_engine(settings: EngineSettings) -> NetworkEngine:
    """Loads the model and starts the engine around it.

    Raises:
        ConfigError: an unknown engine, no environment of vLLM's, or memory for not even one slot.
        ModelError: the model or the device cannot be used, or vLLM did not start.
    """
    if settings.engine not in ENGINES:
        raise ConfigError(f"The engine {settings.engine!r} is unknown; there are {', '.join(ENGINES)}.")
    # Read when torch and transformers are imported. A thread that waits for its partner gives its core away, or
    # two engines on the same cores, or an engine and anything else, mostly wait for each other.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from vigc.model.engines.continuous.replicas import continuous_engine
    from vigc.model.engines.reference import ReferenceEngine
    from vigc.model.engines.vllm.engine import VllmEngine
    from vigc.model.network import load_network

    network = load_network(settings.model, device=settings.device, dtype=settings.dtype)
    if settings.engine == "reference":
        return ReferenceEngine(network, num_threads=settings.num_threads)
    memory_bytes = None if settings.memory_gib is None else int(settings.memory_gib * 2**30)
    slots, threads = settings.num_slots, settings.num_threads
    if settings.engine == "vllm":
        python = settings.vllm_python
        return VllmEngine(network, python=python, num_slots=slots, num_threads=threads, memory_bytes=memory_bytes)
    return continuous_engine(network, num_slots=slots, num_threads=threads, memory_bytes=memory_bytes)
