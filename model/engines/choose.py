"""What a model is, and what runs it, found out before anything else starts: InstructBLIP, any other in a folder, or one
behind an endpoint.

Runs and the service choose in the same way, so the same flags mean the same to both. Light to import: no torch.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from vigc.model.engines.endpoint.address import clean_url, read_key
from vigc.model.engines.settings import Abilities, EndpointSettings, EngineSettings
from vigc.model.engines.vllm.environment import find_python
from vigc.model.prompts import CHAT, PromptPack, load_pack
from vigc.model.weights.identity import Family, ModelPlace, find_model, is_endpoint
from vigc.platform.records import ConfigError, ImageForm, RunError

FIND_PATIENCE_S = 10.0  # for a server's first answer, before anything begins
OURS = ("continuous", "reference", "vllm")  # engines for InstructBLIP
SERVERS = ("vllm", "transformers")  # engines for the models of other families


class ModelFlags(Protocol):
    """What a user says of the model and of what runs it; None where it is left open."""

    @property
    def model(self) -> str | None: ...
    @property
    def endpoint_model(self) -> str | None: ...
    @property
    def api_key_env(self) -> str | None: ...
    @property
    def prompts(self) -> str | None: ...
    @property
    def engine(self) -> str: ...  # "auto": the first that is there
    @property
    def engine_args(self) -> str | None: ...
    @property
    def engine_memory(self) -> float | None: ...
    @property
    def slots(self) -> int | None: ...
    @property
    def concurrency(self) -> int | None: ...
    @property
    def patience_s(self) -> float: ...
    @property
    def vllm_python(self) -> str | None: ...


@dataclass(frozen=True)
class ChosenModel:
    """The model, what it is asked with, and how it is run."""

    place: ModelPlace
    pack: PromptPack
    engine: str  # one of model.engines.settings.ENGINES
    why: str  # this engine, for the user; "": there was nothing to choose
    endpoint: EndpointSettings | None  # where it is spoken to through a server

    @property
    def image_form(self) -> ImageForm:
        """What its engine wants of an image."""
        return image_form(self.place.image_size, self.endpoint)

    def with_abilities(self) -> ChosenModel:
        """With what an endpoint can, found out by asking it. Raises as `find_abilities`."""
        if self.engine != "endpoint" or self.endpoint is None:
            return self
        return replace(self, endpoint=with_abilities(self.endpoint))

    def engine_settings(
        self, flags: ModelFlags, *, device: str, dtype: str, num_gpus: int, num_threads: int
    ) -> EngineSettings:
        """What each process is told that runs it."""
        return EngineSettings(
            engine=self.engine,
            model=self.place.location,
            device=device,
            dtype=dtype,
            num_slots=flags.slots,
            memory_gib=flags.engine_memory,
            num_threads=num_threads,
            vllm_python=str(find_python(flags.vllm_python)) if self.engine == "vllm" else None,
            endpoint=self.endpoint,
            num_gpus=num_gpus,
            server_args=tuple(shlex.split(flags.engine_args or "")),
        )


def choose_model(flags: ModelFlags, *, on_gpu: bool, earlier_runs: Sequence[Mapping[str, Any]] = ()) -> ChosenModel:
    """
    Args:
        on_gpu: whether a model that runs here would run on a GPU.
        earlier_runs: provenance of runs, which may know the model of an endpoint that does not answer now.
    Raises:
        ConfigError: the engine does not go with the model, or the endpoint has several models and none was named.
        ModelError: no such model, or one that does not read images.
        RunError: the endpoint does not answer.
    """
    place = _at_endpoint(flags, earlier_runs) if is_endpoint(flags.model) else find_model(flags.model)
    is_chat = place.family is Family.CHAT
    pack = load_pack(flags.prompts or (CHAT if is_chat else None))
    engine, why = _engine_for(flags, place, on_gpu)
    if not is_chat and engine != "endpoint":
        return ChosenModel(place, pack, engine, why, None)
    endpoint = EndpointSettings(
        url=place.location if engine == "endpoint" else "",
        # transformers' server knows a model by its folder alone.
        model=place.location if engine == "transformers" else place.name,
        key_env=flags.api_key_env or "",
        key=read_key(flags.api_key_env or "") or "",
        # It generates one answer after the other, and a seed is the whole server's.
        concurrency=flags.concurrency or (1 if engine == "transformers" else None),
        image_side=None if is_chat else place.image_size,
        patience_s=flags.patience_s,
        phrases=pack.chat,
    )
    return ChosenModel(place, pack, engine, why, endpoint)


def image_form(image_size: int, endpoint: EndpointSettings | None) -> ImageForm:
    """
    Args:
        image_size: of a model whose images are squares.
    """
    if endpoint is None or endpoint.image_side is not None:
        return ImageForm(side=image_size)
    return ImageForm(max_pixels=endpoint.max_pixels)


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


def _engine_for(flags: ModelFlags, place: ModelPlace, on_gpu: bool) -> tuple[str, str]:
    """The engine, and why it was chosen where there was a choice."""
    if is_endpoint(flags.model):
        return "endpoint", ""
    if place.family is Family.INSTRUCTBLIP:
        if flags.engine not in ("auto", *OURS):
            raise ConfigError(f"--engine {flags.engine} is for other models; InstructBLIP has {', '.join(OURS)}.")
        return ("continuous" if flags.engine == "auto" else flags.engine), ""
    if flags.engine not in ("auto", *SERVERS):
        raise ConfigError(
            f"--engine {flags.engine} is for InstructBLIP models; {place.name} runs with {' or '.join(SERVERS)}."
        )
    if flags.engine != "auto":
        return flags.engine, "as asked for"
    if not on_gpu:
        return "transformers", "vLLM is for GPUs; --engine vllm takes it all the same"
    try:
        find_python(flags.vllm_python)
    except ConfigError:
        return "transformers", "vLLM, which is faster, is not installed here: `make vllm`"
    return "vllm", "it is installed, and there are GPUs"


def _at_endpoint(flags: ModelFlags, earlier_runs: Sequence[Mapping[str, Any]]) -> ModelPlace:
    """What the server says; where it gives no answer, what it said at an earlier run, which then waits for it."""
    from vigc.model.engines.endpoint.abilities import find_model, rereading
    from vigc.model.engines.endpoint.client import Client

    if flags.engine not in ("auto", "endpoint"):
        raise ConfigError(f"--engine {flags.engine} runs a model here, and {flags.model} is run elsewhere.")
    url = clean_url(str(flags.model))
    settings = EndpointSettings(url, flags.endpoint_model or "", key_env=flags.api_key_env or "")
    settings = replace(settings, patience_s=FIND_PATIENCE_S)

    async def find() -> tuple[str, dict[str, Any]]:
        client = Client(settings, on_note=lambda line: None)
        try:
            return await find_model(client, settings)
        finally:
            await client.close()

    try:
        name, about = asyncio.run(find())
    except RunError:
        known = [run["server"] for run in earlier_runs if run.get("server") and run["server"]["url"] == url]
        if not known or settings.model not in ("", known[-1]["model"]) or known[-1].get("rereads"):
            raise
        name, about = known[-1]["model"], {"owned_by": known[-1]["server"]}
    server = str(about.get("owned_by") or "")
    told = rereading(about)
    if told is None:
        return ModelPlace(name, url, Family.CHAT, 0, 0, server=server)
    if flags.prompts is None and told["prompts"]["hash"] != load_pack().hash:
        raise ConfigError(
            f"{url} serves {name} with the prompt pack {told['prompts']['name']!r}, which is not the one here. "
            "Pass the same file with --prompts."
        )
    return ModelPlace(name, url, Family.INSTRUCTBLIP, int(told["image_size"]), 0, server=server)
