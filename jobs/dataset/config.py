"""What the verbs about a data set, or about training files, can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import model_validator

from vigc.jobs.settings.shared import OfDataSet, PrintsJson, ReadsImages
from vigc.platform.quality.settings import ALONE, FilterSettings
from vigc.platform.records import ConfigError, Kind
from vigc.platform.settings import flag


class ShowConfig(OfDataSet):
    """The settings of `vigc show`."""

    limit: int = flag("Show at most N rows.", 5, ge=1)
    image_id: str | None = flag("Show only this image.", None)
    kind: Kind | None = flag("Show only this kind of conversation.", None, metavar="KIND")
    rejected: bool = flag("Show only rejected conversations, with the reasons.", False)
    failed: bool = flag("Show only images that could not be used, with the reasons.", False)


class VerifyConfig(OfDataSet):
    """The settings of `vigc verify`."""

    images: bool = flag("Also read the source images again and name those that changed.", False)
    sample: int | None = flag(
        "With --images, read only N of them, the same each time.", None, ge=1, shown="all", metavar="N"
    )

    @model_validator(mode="after")
    def _samples_images(self) -> VerifyConfig:
        if self.sample is not None and not self.images:
            raise ConfigError("--sample says how many source images are read again. Add --images.")
        return self


class FilterConfig(FilterSettings, OfDataSet):
    """The settings of `vigc filter`."""

    words: Path | None = flag(
        "Reject answers with a word or phrase of this file, which has one a line.", None, metavar="FILE", panel=ALONE
    )
    exclude_like: str | None = flag(
        "Evaluation images, from any source: nothing that was made of an image like them is kept.",
        None,
        metavar="IMAGES",
        panel=ALONE,
    )
    clear: bool = flag("Keep all conversations again.", False, in_file=False)


class ReportConfig(OfDataSet):
    """The settings of `vigc report`."""

    worst: int = flag("How many rows to show that name absent objects or owe the image least.", 24, ge=0)
    random: int = flag("How many rows to show that are drawn evenly.", 24, ge=0)
    rejected: int = flag("How many rows with rejected conversations to show.", 12, ge=0)


class AuditConfig(OfDataSet):
    """The settings of `vigc audit`."""

    marks: str = flag("The file that the page of `vigc report` downloads.", positional=True, metavar="MARKS")
    grounding_below: float = flag("Count a sentence as wrong whose grounding is below this (nats per token).", 0.0)


class ExportConfig(OfDataSet):
    """The settings of `vigc export`."""

    format: str = flag(
        "The format: llava, sharegpt, openai, parquet (a file); webdataset, huggingface, preference (a folder).",
        "llava",
    )
    out: str | None = flag(
        "The file or folder to write; may be s3:// or gs://.", None, metavar="PLACE", shown="DATA/exports/FORMAT"
    )
    multi_turn: bool = flag("Put all kinds of an image into one conversation.", False)
    embed: bool = flag("With openai, write the images themselves instead of their addresses.", False)
    per: Literal["answer", "sentence"] = flag("With preference, make pairs of whole answers or of sentences.", "answer")
    shard_mb: int = flag("The size of a folder's files, about.", 512, ge=1, metavar="MIB")
    check: bool = flag("Read back what was written, and check it.", False)


class ValidateConfig(PrintsJson):
    """The settings of `vigc validate`."""

    file: str = flag(
        "LLaVA, ShareGPT, OpenAI messages or preference pairs, as JSON, JSON Lines, Parquet, or a folder of it.",
        positional=True,
        metavar="FILE",
    )
    images: str | None = flag("The folder that relative paths of images start from.", None, metavar="FOLDER")
    open_: str = flag("Also open so many images, evenly drawn.", "0", metavar="N|all", pattern="all|[0-9]+")
    tokenizer: str | None = flag("A tokenizer of transformers, to say how long rows are.", None, metavar="FOLDER")
    max_tokens: int | None = flag("Call rows with more tokens than this a fault.", None, ge=1)
    tokens_per_image: int = flag("How much of the context an image takes.", 0, ge=0)
    exclude: str | None = flag(
        "The ids of images that must not be in the data (lines, JSON, Parquet or CSV).", None, metavar="FILE"
    )
    exclude_like: str | None = flag(
        "Evaluation images, from any source, that no image may look like; needs --open.", None, metavar="IMAGES"
    )
    out: str | None = flag("Write every finding to this file, as JSON Lines.", None, metavar="FILE")

    @property
    def num_open(self) -> int | None:
        """How many images are opened; None: all."""
        return None if self.open_ == "all" else int(self.open_)

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> ValidateConfig:
        if self.max_tokens is not None and self.tokenizer is None:
            raise ConfigError("--max-tokens needs --tokenizer: lengths differ from one to another.")
        if self.exclude_like is not None and self.num_open == 0:
            raise ConfigError("--exclude-like compares images that are opened. Add --open all, or a number of them.")
        return self


class PopeConfig(ReadsImages, PrintsJson):
    """The settings of `vigc pope`."""

    images: str = flag("Any source of annotated images; see `vigc generate`.", positional=True, metavar="IMAGES")
    out: str = flag(
        "The file to write; with all splits there is one for each, with its name before the suffix.", metavar="FILE"
    )
    objects: str = flag(
        "The categories that are asked for; auto takes those of the annotations.",
        "auto",
        metavar="auto|coco|objects365|FILE",
    )
    num_images: int = flag("Ask about at most N images, drawn by --seed.", 500, ge=1)
    num_objects: int = flag("Ask for N objects of an image that are present, and as many that are absent.", 3, ge=1)
    split: Literal["random", "popular", "adversarial", "all"] = flag("How absent objects are chosen.", "all")
    seed: int = flag("The seed; the same one gives the same probes.", 0)
