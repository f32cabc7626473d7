"""Settings that several verbs have."""

from __future__ import annotations

import os
import re
from functools import partial
from typing import Annotated

from pydantic import AfterValidator, field_validator

from vigc.jobs.settings.config import Config
from vigc.platform.settings import flag
from vigc.platform.tracking import NOT_TRACKED

IMAGES_PANEL = "Which images"
_images = partial(flag, panel=IMAGES_PANEL)

Uri = Annotated[str | None, AfterValidator(lambda value: None if value == NOT_TRACKED else value)]


class PrintsJson(Config):
    """A verb whose result a program may read."""

    json_: bool = flag("Print JSON for machines, and nothing else, on stdout.", False, in_file=False)


class OfDataSet(PrintsJson):
    """A verb about a data set that is there."""

    data: str = flag("The dataset directory that `vigc generate --out DATA` wrote.", positional=True, metavar="DATA")


class ReadsImages(Config):
    """A verb that reads images from any source."""

    annotations: tuple[str, ...] = _images("COCO annotation files for the images, joined by image id.", ())
    source: str = _images(
        "What the place of the images is: folder, coco, manifest, webdataset, huggingface, or a plug-in's name; auto "
        "looks at it.",
        "auto",
        metavar="NAME",
    )


class ChoosesImages(ReadsImages):
    """A verb that reads some of them."""

    exclude: str | None = _images(
        "Leave out the images whose ids this file lists (lines, JSON, Parquet or CSV).", None, metavar="FILE"
    )
    limit: int | None = _images("Take only the first N images.", None, ge=1, shown="all")
    sample: int | None = _images("Take N images drawn by --seed, the same each time.", None, ge=1, shown="all")
    seed: int = _images("The seed of --sample.", 0)
    shard: str | None = _images("Take the I-th of N parts, to share the work.", None, metavar="I/N", shown="all")

    @field_validator("shard", mode="after")
    @classmethod
    def _is_shard(cls, value: str | None) -> str | None:
        found = re.fullmatch(r"(\d+)/(\d+)", value) if value is not None else None
        if value is not None and (found is None or not 1 <= int(found[1]) <= int(found[2])):
            raise ValueError(f"{value!r} is no shard; use i/n with 1 <= i <= n, like 2/8")
        return value


class Tracked(Config):
    """A verb whose figures an MLflow server may show."""

    tracking: Uri = flag(
        "The MLflow server that shows the run; none: nowhere.",
        default_factory=lambda: os.environ.get("MLFLOW_TRACKING_URI"),
        validate_default=True,
        metavar="URI|none",
        shown="MLFLOW_TRACKING_URI",
    )
