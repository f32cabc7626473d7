"""What `vigc ingest` can be told."""

from __future__ import annotations

from vigc.jobs.settings.shared import ChoosesImages, PrintsJson
from vigc.platform.settings import flag


class IngestConfig(ChoosesImages, PrintsJson):
    """The settings of `vigc ingest`."""

    location: str = flag(
        "Images: a folder, a list of addresses (.txt), COCO, a manifest, tar shards, or Hugging Face.",
        positional=True,
        metavar="LOCATION",
    )
    out: str = flag("The manifest's folder, which is new or empty; may be s3:// or gs://.", metavar="MANIFEST")
    overwrite: bool = flag("Replace another manifest there.", False, in_file=False)
