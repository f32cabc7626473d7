"""What `vigc generate` can be told. Light on purpose: `vigc --help` reads it, so nothing heavy is imported here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import field_validator, model_validator

from vigc.jobs.settings.options import Value
from vigc.jobs.settings.shared import IMAGES_PANEL, ChoosesImages, OfDataSet, PrintsJson
from vigc.model.completion import CPU_SLOTS, GPU_SLOTS
from vigc.platform.records import ConfigError, Kind
from vigc.platform.settings import Counts, PricePair, flag

_images = partial(flag, panel=IMAGES_PANEL)
_made = partial(flag, panel="What is made of them")
_run = partial(flag, panel="How it runs")
_data_set = partial(flag, panel="The data set at OUT")


class Mode(StrEnum):
    """What a run does with what is at OUT."""

    CONTINUE = "continue"  # the pass with the same request, or begin the first one
    OVERWRITE = "overwrite"
    NEW = "new"  # other settings: a further pass
    RESUME = "resume"  # insist on there being one to continue
    RETRY_FAILED = "retry-failed"
    ADD_KIND = "add-kind"


class GenerateConfig(ChoosesImages, PrintsJson):
    """The settings of one `vigc generate`."""

    images: str = flag(
        "A folder of images, COCO or Objects365 annotations, a manifest, tar shards, a Hugging Face data set; here, at "
        "s3://, gs:// or in a list of addresses. With --retry-failed and --add-kind: OUT.",
        positional=True,
        metavar="IMAGES",
        min_length=1,
    )
    out: str = _data_set("The folder where the data go. The same command again continues there.", min_length=1)
    max_pixels: int | None = _images(
        "Refuse larger images, which then count as failed.", None, ge=1, shown="89 million"
    )

    model: str | None = _made(
        "A folder or hub id of a model that reads images, or the address of an endpoint that speaks chat completions, "
        "such as http://localhost:8000/v1.",
        None,
        shown="the embedded model",
    )
    endpoint_model: str | None = _made(
        "The name of the model at the endpoint.", None, shown="the only one that the endpoint lists"
    )
    api_key_env: str | None = _made(
        "The environment variable that holds the endpoint's key.", None, metavar="NAME", shown="no key is sent"
    )
    kinds: tuple[Kind, ...] = _made(
        "The kinds of conversation that are made about each image.",
        (Kind.CONVERSATION, Kind.DETAIL, Kind.REASONING),
        metavar="KIND,…",
    )
    prompts: str | None = _made("A prompt pack.", None, metavar="FILE.yaml", shown="the project's own")
    policy: str = _made("How VIC iterates: paper, verified, lean or shipped.", "paper")
    policy_options: dict[str, Value] = _made(
        "Change one option of the policy. May be repeated.", {}, alias="set", metavar="OPTION=VALUE"
    )
    objects: str = _made(
        "The vocabulary that objects are named in, to count those that are absent; auto takes the categories of the "
        "annotations.",
        "auto",
        metavar="auto|none|coco|objects365|FILE",
    )
    grounding: Literal["none", "asked", "blank"] | None = _made(
        "Measure what each sentence owes to the image: ask about each object it names, or compare with a blank image.",
        None,
        shown="the policy's",
    )
    correct: tuple[Literal["verify", "choose", "candidates"], ...] = _made(
        "Let grounding correct beyond VIC: say anew what the model denies, keep VIG's answer where it is better "
        "grounded, choose among sampled sentences.",
        (),
        shown="VIC alone",
    )
    temperature: float | None = _made("The temperature of sampling; 0 is greedy.", None, shown="the policy's")
    top_p: float | None = _made("Sample from the likeliest words that make up this share.", None, shown="the policy's")
    seed: int = _made("The seed of --sample, and of words that are sampled.", 0)

    engine: Literal["auto", "continuous", "reference", "vllm", "transformers"] = _run(
        "What runs the model. For InstructBLIP: continuous, vllm (its language model in vLLM, see `make vllm`), or "
        "reference, the paper's loop done plainly and slowly. For other models: vllm, or transformers, which is slower "
        "and needs nothing more. auto takes the first of these that is installed.",
        "auto",
    )
    engine_args: str | None = _run(
        "Arguments for the server of vllm or transformers, as one text such as '--max-model-len 8192'.",
        None,
        metavar="TEXT",
    )
    concurrency: int | None = _run(
        "The number of requests that an actor has under way at a server.", None, ge=1, shown="found while it runs"
    )
    patience: float = _run(
        "How long the run waits for a server that does not answer, before it ends.", 15, gt=0, metavar="MINUTES"
    )
    vllm_python: str | None = _run(
        "The Python of the environment that vLLM is in, on every machine.",
        None,
        metavar="PATH",
        shown="VIGC_VLLM_PYTHON, or .venv-vllm/bin/python",
    )
    slots: int | None = _run(
        "Conversations that an actor decodes at once.",
        None,
        ge=1,
        shown=f"what memory allows, at most {CPU_SLOTS} on a CPU and {GPU_SLOTS} on a GPU",
    )
    engine_memory: float | None = _run(
        "The memory for the slots and images of an actor; fewer slots where they need more.",
        None,
        gt=0,
        metavar="GIB",
        shown="what is free",
    )
    actors: Counts = _run("Processes that each hold the model; between MIN and MAX as there is work.", (1, 1))
    gpus_per_actor: float | None = _run(
        "GPUs for each actor; may be a fraction.", None, ge=0, shown="1 if there is a GPU, else 0"
    )
    stall_timeout: float = _run(
        "When no process was at work for so long, start again from what is committed.", 5, gt=0, metavar="MINUTES"
    )
    device: str = _run("The device of the model: auto, cpu or cuda.", "auto")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = _run(
        "The precision of the model; auto: bfloat16 on a GPU, else float32.", "auto"
    )
    tracking: str | None = _run(
        "Where MLflow shows the run; needs `mlflow`.",
        None,
        metavar="URI|none",
        shown="MLFLOW_TRACKING_URI, or mlflow.db beside OUT",
    )
    price: float | None = _run(
        "The price of a GPU-hour, or of a machine-hour where there is no GPU: shows the cost so far.", None, ge=0
    )
    token_price: PricePair | None = _run(
        "The price of a million tokens that an endpoint reads, and of a million that it writes.",
        None,
        metavar="IN,OUT",
        shown="the table's, where it has the model",
    )
    prices: Path | None = _run("A table of what models cost.", None, metavar="FILE.yaml", shown="the shipped table")
    budget: float | None = _run(
        "Stop when so much is spent on this pass, all runs together; the same command with more goes on.", None, gt=0
    )

    overwrite: bool = _data_set("Replace the data set at OUT.", False, in_file=False)
    new: bool = _data_set(
        "Add a pass with other settings than OUT was made with; its answers count.", False, in_file=False
    )
    resume: bool = _data_set("Insist that OUT is there to be continued.", False, in_file=False)
    retry_failed: bool = _data_set("Add a pass over the images of OUT that failed.", False, in_file=False)
    add_kind: tuple[Kind, ...] = _data_set(
        "Add a pass over all images of OUT for other kinds.", (), metavar="KIND,…", in_file=False
    )

    @property
    def mode(self) -> Mode:
        return mode_of({mode: getattr(self, mode.replace("-", "_"), None) for mode in Mode})

    @property
    def patience_s(self) -> float:
        return 60 * self.patience

    @field_validator("device", mode="after")
    @classmethod
    def _is_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
            raise ValueError(f"there is no device {value!r}; use auto, cpu or cuda")
        return value

    @field_validator("kinds", mode="after")
    @classmethod
    def _order_kinds(cls, value: tuple[Kind, ...]) -> tuple[Kind, ...]:
        if not value:
            raise ValueError(f"needs at least one of {', '.join(Kind)}")
        if twice := [kind for kind in Kind if value.count(kind) > 1]:
            raise ValueError(f"{twice[0]} is named twice; each kind of conversation is made once about an image")
        return tuple(kind for kind in Kind if kind in value)  # the same kinds in another order are the same request

    @model_validator(mode="after")
    def _has_one_mode(self) -> GenerateConfig:
        _ = self.mode
        return self


class SummaryConfig(OfDataSet):
    """The settings of `vigc summary`."""

    by: str | None = flag(
        "Also make a table for each part: of the first folder of image_id, of the pass, or of what a Parquet or CSV "
        "file with the columns image_id and domain says.",
        None,
        metavar="folder|pass|FILE",
    )


def mode_of(flags: Mapping[str, object]) -> Mode:
    """What the flags say to do with a data set that is there.

    Raises:
        ConfigError: they say more than one thing.
    """
    given = [mode for mode in Mode if flags.get(mode) not in (None, False, ())]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(f'--{mode}' for mode in given)} contradict each other. Give one of them.")
    return given[0] if given else Mode.CONTINUE
