"""The service's settings: one typed model, filled from flags of `vigc serve` or from `args` in a Serve file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from vigc.model.conversation.grounding import Grounding
from vigc.model.cores import num_cores
from vigc.model.engines.settings import EngineSettings
from vigc.model.weights.identity import find_model

if TYPE_CHECKING:
    from vigc.platform.pipeline.hardware import Hardware

KEYS_VARIABLE = "VIGC_API_KEYS"  # bearer keys, with commas between them; read where the gateway runs
MIB = 2**20
MOST_SMALL_REPLICAS = 4  # each takes most of a GiB
# For the environment of Ray's processes: they talk to each other straight, not through the object store, and in the
# event loop that answers, which is a good part of what a request costs beside the model.
LEAN = {
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_ROUTER_RETRY_MAX_BACKOFF_S": "0.1",  # until who waits for a full replica looks again; half a second else
}


class ServeSettings(BaseModel):
    """The settings of one service. Paths must be readable on every machine that runs a part of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = None  # None: the embedded model
    prompts: str | None = None  # None: the project's own pack
    policy: str = "paper"  # where a request names none
    grounding: Grounding | None = None  # where a request names none; None: the policy's
    objects: str = "auto"  # auto, none, coco, objects365, or a file: the vocabulary that objects are named in
    samples: bool = True  # whether the page offers rendered scenes to try

    engine: Literal["continuous", "reference", "vllm"] = "continuous"
    vllm_python: str | None = None
    slots: int = Field(64, ge=1)  # conversations that a replica decodes at once
    engine_memory: float | None = Field(None, gt=0)  # GiB for a replica's slots and images; None: what is free
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    threads: int | None = Field(None, ge=1)  # of a replica's engine; None: its share of the cores but one

    replicas: str = Field("auto", coerce_numbers_to_str=True)  # a number, or "MIN:MAX"; auto: see replica_range
    gpus_per_replica: float | None = Field(None, ge=0)  # None: 1 where the replicas run on GPUs, else 0
    gateways: int = Field(1, ge=1)  # replicas that speak HTTP, decode images and name objects
    max_ongoing: int = Field(128, ge=1)  # requests that a replica works on; more than slots, so that none waits empty
    max_queued: int = Field(64, ge=0)  # requests that wait for one, per gateway; more get status 503
    target_ongoing: float | None = Field(None, gt=0)  # per replica, when scaling; None: half of max_ongoing
    upscale_delay_s: float = Field(10, ge=0)
    downscale_delay_s: float = Field(300, ge=0)
    drain_s: float = Field(60, gt=0)  # for what is under way when a replica has to go

    requires_key: bool = False  # refuse to start without keys in VIGC_API_KEYS
    host_names: list[str] = []  # by which the service may be called; [] for any. See middleware.AllowedHosts
    allow_hosts: list[str] = []  # that images are fetched from: host, host:port, *.domain, or * for all public ones
    cors_origins: list[str] = []  # pages of other origins that may ask
    max_upload_mib: float = Field(20, gt=0)  # one image
    max_pixels: int = Field(50_000_000, ge=1)
    max_question_chars: int = Field(2000, ge=1)
    max_held_mib: float = Field(1024, gt=0)  # bodies that a gateway holds at once
    max_batch_mib: float = Field(64, gt=0)
    max_batch_lines: int = Field(1000, ge=1)
    body_timeout_s: float = Field(30, gt=0)  # for all of a request to arrive
    fetch_timeout_s: float = Field(10, gt=0)  # for an image at an address
    answer_timeout_s: float = Field(300, gt=0)

    @field_validator("replicas", mode="after")
    @classmethod
    def _is_range(cls, value: str) -> str:
        found = re.fullmatch(r"(\d+)(?::(\d+))?", value)
        if value == "auto":
            return value
        if found is None or not 1 <= int(found[1]) <= int(found[2] or found[1]):
            raise ValueError(f"{value!r} is no number of replicas; use a number from 1 on, or MIN:MAX like 1:8")
        return value

    @property
    def replica_range(self) -> tuple[int, int]:
        """Where it is left to us: one; of the embedded model on a CPU, one for each core or few.

        Its steps are so short that two engines in one process mostly wait for each other, as Python runs one at a time.
        """
        if self.replicas == "auto":
            on_gpu = self.gpus_per_replica or self.device.startswith("cuda")
            few = min(num_cores(), MOST_SMALL_REPLICAS) if self.model is None and not on_gpu else 1
            return few, few
        least, _, most = self.replicas.partition(":")
        return int(least), int(most or least)

    @property
    def max_upload_bytes(self) -> int:
        return int(self.max_upload_mib * MIB)

    @property
    def max_body_bytes(self) -> int:
        """Of a request with one image, which may be base64 inside JSON."""
        return self.max_upload_bytes * 4 // 3 + MIB

    @property
    def max_batch_bytes(self) -> int:
        return int(self.max_batch_mib * MIB)

    @property
    def max_held_bytes(self) -> int:
        return int(self.max_held_mib * MIB)

    def on(self, hardware: Hardware) -> ServeSettings:
        """The same, with what was left open about hardware decided."""
        chosen = {"device": hardware.device, "dtype": hardware.dtype, "gpus_per_replica": hardware.gpus}
        return self.model_copy(update=chosen)

    @property
    def engine_settings(self) -> EngineSettings:
        """Of each replica."""
        return EngineSettings(
            engine=self.engine,
            model=find_model(self.model).location,
            device=self.device,
            dtype=self.dtype,
            num_slots=self.slots,
            memory_gib=self.engine_memory,
            num_threads=self.chosen_threads,
            vllm_python=self.vllm_python,
        )

    @property
    def chosen_threads(self) -> int:
        # One is left to gateways: threads of an engine wait for each other, all for the one whose core is taken.
        return self.threads or max(1, (num_cores() - 1) // self.replica_range[1])
