"""The service's settings: one typed model, filled from flags of `vigc serve` or from `args` in a Serve file."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from vigc.model.conversation.grounding import Grounding
from vigc.model.cores import num_cores
from vigc.model.engines.settings import EngineSettings
from vigc.platform.settings import Counts, flag

if TYPE_CHECKING:
    from vigc.model.engines.choose import ChosenModel
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


# Headings of the help.
WHAT, HOW, WHO = "What answers", "How it runs", "Who may ask what"
_what, _how, _who = (partial(flag, panel=panel) for panel in (WHAT, HOW, WHO))


class ServeSettings(BaseModel):
    """The settings of one service. Paths must be readable on every machine that runs a part of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = _what(
        "A folder or hub id of a model that reads images, or the address of an endpoint that speaks chat completions, "
        "such as http://localhost:8000/v1.",
        None,
        shown="the embedded model",
    )
    endpoint_model: str | None = _what(
        "The name of the model at the endpoint.", None, shown="the only one that the endpoint lists"
    )
    api_key_env: str | None = _what(
        "The environment variable that holds the endpoint's key.", None, metavar="NAME", shown="no key is sent"
    )
    prompts: str | None = _what("A prompt pack.", None, metavar="FILE.yaml", shown="the project's own")
    policy: str = _what("The policy where a request names none: paper, verified, lean or shipped.", "paper")
    grounding: Grounding | None = _what(
        "The grounding where a request names none; see `vigc generate`.", None, shown="the policy's"
    )
    objects: str | None = _what(
        "The vocabulary that objects are named in.",
        None,
        metavar="none|coco|objects365|FILE",
        shown="the words of the embedded model's scenes, or coco for another model",
    )
    samples: bool = _what("Offer rendered scenes to try on the page.", True)

    engine: Literal["auto", "continuous", "reference", "vllm", "transformers"] = _how(
        "What runs the model; see `vigc generate`.", "auto"
    )
    engine_args: str | None = _how(
        "Arguments for the server of vllm or transformers, as one text such as '--max-model-len 8192'.",
        None,
        metavar="TEXT",
    )
    concurrency: int | None = _how(
        "The number of requests that a replica has under way at a server.", None, ge=1, shown="found while it runs"
    )
    patience_s: float = Field(default=10, gt=0)  # for a server that does not answer
    vllm_python: str | None = _how(
        "The Python of the environment that vLLM is in, on every machine.",
        None,
        metavar="PATH",
        shown="VIGC_VLLM_PYTHON, or .venv-vllm/bin/python",
    )
    slots: int = _how("Conversations that a replica decodes at once.", 64, ge=1)
    engine_memory: float | None = _how(
        "The memory for the slots and images of a replica.", None, gt=0, metavar="GIB", shown="what is free"
    )
    device: str = _how("The device of the model: auto, cpu or cuda.", "auto")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = _how(
        "The precision of the model; auto: bfloat16 on a GPU, else float32.", "auto"
    )
    threads: int | None = Field(default=None, ge=1)  # of a replica's engine; None: its share of the cores but one

    replicas: Counts | None = _how(
        "Processes that each hold the model; between MIN and MAX as there are requests.",
        None,
        shown="1; of the embedded model on a CPU one for each core, at most 4",
    )
    gpus_per_replica: float | None = _how(
        "GPUs for each replica; may be a fraction.", None, ge=0, shown="1 if there is a GPU, else 0"
    )
    gateways: int = _how("Processes that speak HTTP, decode images and name objects.", 1, ge=1)
    max_ongoing: int = _how(
        "Requests that a replica works on at once; more than slots, so that none waits empty.", 128, ge=1
    )
    max_queued: int = _how(
        "Requests that wait for a replica, for each gateway; what is more gets status 503.", 64, ge=0
    )
    target_ongoing: float | None = Field(default=None, gt=0)  # per replica, when scaling; None: half of max_ongoing
    upscale_delay_s: float = Field(default=10, ge=0)
    downscale_delay_s: float = Field(default=300, ge=0)
    drain_s: float = Field(default=60, gt=0)  # for what is under way when a replica has to go

    requires_key: bool = False  # refuse to start without keys in VIGC_API_KEYS
    host_names: list[str] = []  # by which the service may be called; [] for any. See middleware.AllowedHosts
    allow_hosts: list[str] = _who(
        "Fetch images from these places: host, host:port, *.domain, or * for all of the public internet.",
        [],
        metavar="HOST,…",
        shown="none",
    )
    cors_origins: list[str] = _who("Let pages of these origins ask.", [], metavar="ORIGIN,…", shown="none")
    max_upload_mib: float = _who("The largest image.", 20, gt=0, metavar="MIB")
    max_pixels: int = Field(default=50_000_000, ge=1)
    max_question_chars: int = Field(default=2000, ge=1)
    max_held_mib: float = Field(default=1024, gt=0)  # bodies that a gateway holds at once
    max_batch_mib: float = Field(default=64, gt=0)
    max_batch_lines: int = Field(default=1000, ge=1)
    body_timeout_s: float = Field(default=30, gt=0)  # for all of a request to arrive
    fetch_timeout_s: float = Field(default=10, gt=0)  # for an image at an address
    answer_timeout_s: float = Field(default=300, gt=0)

    @property
    def replica_range(self) -> tuple[int, int]:
        """Where it is left to us: one; of the embedded model on a CPU, one for each core or few.

        Its steps are so short that two engines in one process mostly wait for each other, as Python runs one at a time.
        """
        if self.replicas is None:
            on_gpu = self.gpus_per_replica or self.device.startswith("cuda")
            few = min(num_cores(), MOST_SMALL_REPLICAS) if self.model is None and not on_gpu else 1
            return few, few
        return self.replicas

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

    def engine_settings(self, chosen: ChosenModel) -> EngineSettings:
        """Of each replica."""
        return chosen.engine_settings(
            self,
            device=self.device,
            dtype=self.dtype,
            num_gpus=math.ceil(self.gpus_per_replica or 0),
            num_threads=self.chosen_threads,
        )

    @property
    def chosen_threads(self) -> int:
        # One is left to gateways: threads of an engine wait for each other, all for the one whose core is taken.
        return self.threads or max(1, (num_cores() - 1) // self.replica_range[1])
