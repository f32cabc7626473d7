"""What an engine is told: of which kind, of which model, on what hardware, how much at once.

It is decided once, before anything heavy starts, and handed on whole to the process that starts the engine
(`start.py`). Light to import: no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vigc.model.completion import CPU_SLOTS, GPU_SLOTS
from vigc.model.prompts import ChatPhrases

ENGINES = ("continuous", "reference", "vllm", "transformers", "endpoint")


MAX_PIXELS = 1_048_576  # of an image that is sent, where nobody says: 1024 x 1024, more than most models look at
PATIENCE_S = 900.0
TIMEOUT_S = 600.0
MAX_CONCURRENCY = 512


@dataclass(frozen=True, slots=True)
class Abilities:
    """Of one model on one server. What is missing is done another way, or refused in one line."""

    server: str = ""  # what it says of itself, such as "vllm"
    logprobs: bool = False  # of what it says, with the likeliest other tokens
    continues: bool = False  # takes a begun answer (`continue_final_message`)
    candidates: bool = False  # several choices for one request (`n`)
    seed: bool = False  # sampling follows it
    schema: bool = False  # answers in the form of a JSON schema
    usage: bool = False  # says how many tokens each request took
    rereads: bool = False  # the image, with each continuation: `vigc serve` around a model with a Q-Former
    is_deterministic: bool = False  # the same greedy request had the same answer twice
    context_length: int | None = None  # tokens, where it says so
    remembers_images: bool = False  # so that an image is sent once and then named
    adds_start_mark: bool = False  # the tokenizer's, which it leaves out of chats unless told to add it
    max_pixels: int | None = None  # the largest image that it took, of those that were tried; None: not tried

    def lines(self) -> list[tuple[str, str]]:
        """For people: what, and whether or what instead."""
        return [
            *([("reads the image", "anew at each step, as an engine here")] if self.rereads else []),
            ("log-probabilities", "yes" if self.logprobs else "no: yes-or-no questions are read by their words"),
            ("JSON schema", "yes" if self.schema else "no"),
            ("continues a begun answer", "yes" if self.continues else "no: asked to go on in a new turn"),
            ("several choices", "yes" if self.candidates else "no: asked one by one"),
            ("seed", "yes" if self.seed else "no: sampled texts differ from run to run"),
            (
                "same text twice (greedy)",
                "yes" if self.is_deterministic else "no: a digest will differ from run to run",
            ),
            ("remembers images", "yes" if self.remembers_images else "no: an image is sent with each request"),
            *([("start mark", "added: the chat template has none")] if self.adds_start_mark else []),
            ("counts tokens", "yes" if self.usage else "no: what a run costs is not known"),
            ("context", f"{self.context_length} tokens" if self.context_length else "not said"),
            ("largest image", f"{self.max_pixels:,} pixels (larger ones are made smaller)" if self.max_pixels else "?"),
        ]


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """One model of one server."""

    url: str  # up to and with /v1
    model: str  # its name there
    key_env: str = ""  # the environment variable that holds the key; "": the server wants none
    key: str = field(default="", repr=False)  # read there, for processes of other environments; written nowhere
    concurrency: int | None = None  # requests under way; None: it is found while the run goes on
    max_pixels: int = MAX_PIXELS  # of an image; larger ones are made smaller before they are sent
    image_side: int | None = None  # of the square of pixels that a server wants which rereads it; None: it does not
    patience_s: float = PATIENCE_S  # how long a server that does not answer is waited for
    timeout_s: float = TIMEOUT_S  # for one request
    phrases: ChatPhrases = field(default_factory=ChatPhrases)  # how it is told to go on and what to leave out
    sampling: Mapping[str, str] = field(default_factory=dict)  # what a request for a sampled answer needs, too
    abilities: Abilities | None = None  # None: found out before the first request


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """See the module."""

    engine: str = "continuous"  # one of ENGINES, or what else the room that starts it knows
    model: str  # a folder or hub id
    device: str = "auto"  # auto: what the process finds
    dtype: str = "auto"
    num_slots: int | None = None  # conversations that are decoded at once; None: as many as memory allows
    memory_gib: float | None = None  # for slots and images; None: what is free
    num_threads: int | None = None  # None: all cores
    vllm_python: str | None = None  # of the environment that vLLM is installed in; None: see vllm/environment.py

    endpoint: EndpointSettings | None = None  # of a model that is spoken to through a server, ours or another
    num_gpus: int = 0  # that a server of ours has
    server_args: tuple[str, ...] = ()  # that go to it as they are

    @property
    def most_slots(self) -> int:
        """What the engine may have at most: as many conversations are kept in supply."""
        if self.engine == "reference":
            return 1
        if self.endpoint is not None:
            return self.num_slots or self.endpoint.concurrency or MAX_CONCURRENCY
        return self.num_slots or (GPU_SLOTS if self.device.startswith("cuda") else CPU_SLOTS)
