"""What a run's model is, found out before anything else starts: InstructBLIP, any other in a folder, or one behind an
endpoint.
"""

from __future__ import annotations

import asyncio
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vigc.jobs.generate.config import GenerateConfig
from vigc.model.engines.endpoint.address import clean_url, read_key
from vigc.model.engines.settings import Abilities, EndpointSettings, EngineSettings
from vigc.model.engines.vllm.environment import find_python
from vigc.model.prompts import CHAT, PromptPack, load_pack
from vigc.model.weights.identity import Family, ModelIdentity, identify
from vigc.platform.pipeline.hardware import Hardware, choose_hardware
from vigc.platform.records import ConfigError, RunError

FIND_PATIENCE_S = 10.0  # for a server's first answer, before the run begins
OURS = ("continuous", "reference", "vllm")  # engines for InstructBLIP
SERVERS = ("vllm", "transformers")  # engines for the models of other families


@dataclass(frozen=True)
class ChosenModel:
    """The model, what it is asked with, and how it is run."""

    identity: ModelIdentity
    pack: PromptPack
    engine: str  # one of model.engines.settings.ENGINES
    why: str  # this engine, for the user; "": there was nothing to choose
    hardware: Hardware  # of each process that holds the model
    endpoint: EndpointSettings | None  # where it is spoken to through a server


def is_endpoint(model: str | None) -> bool:
    return model is not None and "://" in model


def choose_model(config: GenerateConfig, earlier_runs: Iterable[Mapping[str, Any]] = ()) -> ChosenModel:
    """
    Args:
        earlier_runs: provenance of runs, which may hold the hash of the same untouched weights.
    Raises:
        ConfigError: the engine does not go with the model, or the endpoint has several models and none was named; or
            as `choose_hardware`.
        ModelError: no such model, or one that does not read images.
        RunError: the endpoint does not answer, or as `choose_hardware`.
    """
    earlier_runs = list(earlier_runs)
    identity = _at_endpoint(config, earlier_runs) if is_endpoint(config.model) else identify(config.model, earlier_runs)
    is_chat = identity.family is Family.CHAT
    pack = load_pack(config.prompts or (CHAT if is_chat else None))
    if is_endpoint(config.model):
        hardware = choose_hardware("cpu", "auto", 0)
    else:
        hardware = choose_hardware(config.device, config.dtype, config.gpus_per_actor)
    engine, why = _engine_for(config, identity, hardware)
    if not is_chat:
        return ChosenModel(identity, pack, engine, why, hardware, None)
    endpoint = EndpointSettings(
        url=identity.location if engine == "endpoint" else "",
        # transformers' server knows a model by its folder alone.
        model=identity.location if engine == "transformers" else identity.name,
        key_env=config.api_key_env or "",
        key=read_key(config.api_key_env or "") or "",
        # It generates one answer after the other, and a seed is the whole server's.
        concurrency=config.concurrency or (1 if engine == "transformers" else None),
        patience_s=60 * config.patience,
        phrases=pack.chat,
    )
    return ChosenModel(identity, pack, engine, why, hardware, endpoint)


def engine_settings(config: GenerateConfig, chosen: ChosenModel, num_threads: int) -> EngineSettings:
    """What each actor is told."""
    hardware = chosen.hardware
    return EngineSettings(
        engine=chosen.engine,
        model=chosen.identity.location,
        device=hardware.device,
        dtype=hardware.dtype,
        num_slots=config.slots,
        memory_gib=config.engine_memory,
        num_threads=num_threads,
        vllm_python=str(find_python(config.vllm_python)) if chosen.engine == "vllm" else None,
        endpoint=chosen.endpoint,
        num_gpus=math.ceil(hardware.gpus),
        server_args=tuple(shlex.split(config.engine_args or "")),
    )


def with_abilities(endpoint: EndpointSettings) -> EndpointSettings:
    """With what the endpoint can, found out by asking it. Raises as `find_abilities`."""
    from vigc.model.engines.endpoint.abilities import find_abilities, find_model
    from vigc.model.engines.endpoint.client import Client

    async def ask() -> Abilities:
        client = Client(endpoint)
        try:
            name, about = await find_model(client, endpoint)
            return await find_abilities(client, name, about, endpoint)
        finally:
            await client.close()

    abilities = asyncio.run(ask())
    return replace(endpoint, abilities=abilities, max_pixels=abilities.max_pixels or endpoint.max_pixels)


def _engine_for(config: GenerateConfig, identity: ModelIdentity, hardware: Hardware) -> tuple[str, str]:
    """The engine, and why it was chosen where there was a choice."""
    if is_endpoint(config.model):
        return "endpoint", ""
    if identity.family is Family.INSTRUCTBLIP:
        if config.engine not in ("auto", *OURS):
            raise ConfigError(f"--engine {config.engine} is for other models; InstructBLIP has {', '.join(OURS)}.")
        return ("continuous" if config.engine == "auto" else config.engine), ""
    if config.engine not in ("auto", *SERVERS):
        raise ConfigError(
            f"--engine {config.engine} is for InstructBLIP models; {identity.name} runs with {' or '.join(SERVERS)}."
        )
    if config.engine != "auto":
        return config.engine, "as asked for"
    if not hardware.is_gpu:
        return "transformers", "vLLM is for GPUs; --engine vllm takes it all the same"
    try:
        find_python(config.vllm_python)
    except ConfigError:
        return "transformers", "vLLM, which is faster, is not installed here: `make vllm`"
    return "vllm", "it is installed, and there are GPUs"


def _at_endpoint(config: GenerateConfig, earlier_runs: Sequence[Mapping[str, Any]]) -> ModelIdentity:
    """What the server says; where it gives no answer, what it said at an earlier run, which then waits for it."""
    from vigc.model.engines.endpoint.abilities import find_model
    from vigc.model.engines.endpoint.client import Client

    if config.engine not in ("auto", "endpoint"):
        raise ConfigError(f"--engine {config.engine} runs a model here, and {config.model} is run elsewhere.")
    url = clean_url(str(config.model))
    settings = EndpointSettings(url, config.endpoint_model or "", key_env=config.api_key_env or "")
    settings = replace(settings, patience_s=FIND_PATIENCE_S)

    async def find() -> tuple[str, dict[str, Any]]:
        client = Client(settings, on_note=lambda line: None)
        try:
            return await find_model(client, settings)
        finally:
            await client.close()

    try:
        name, about = asyncio.run(find())
        server = str(about.get("owned_by") or "")
    except RunError:
        known = [run["server"] for run in earlier_runs if run.get("server") and run["server"]["url"] == url]
        if not known or settings.model not in ("", known[-1]["model"]):
            raise
        name, server = known[-1]["model"], known[-1]["server"]
    return ModelIdentity(name, url, "endpoint", Family.CHAT, 0, 0, [], server=server)
