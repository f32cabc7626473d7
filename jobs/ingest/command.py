"""The verb `ingest` at the terminal."""

from __future__ import annotations

from dataclasses import asdict

from vigc.jobs.ingest.config import IngestConfig
from vigc.jobs.settings.command import Verb
from vigc.jobs.terminal import make_console, print_json


def ingest(config: IngestConfig) -> None:
    """Write any source as a manifest of Parquet files, to be read fast and often.

    Exclude, limit, sample and shard are applied in this order. The same command again finds the manifest finished.
    """
    from vigc.jobs.ingest.run import Say, run_ingest

    say = Say(make_console(quiet=config.json_))
    with say.shown():
        made = run_ingest(config, on_open=say.opened, on_progress=say.report)
    if config.json_:
        print_json(asdict(made))
    else:
        say.done(made)


INGEST = Verb(
    IngestConfig,
    ingest,
    (
        "vigc ingest objects365 --annotations zhiyuan_objv2_train.json --out manifest",
        "vigc ingest coco/train2017 --annotations instances.json,captions.json --out manifest",
        "vigc ingest 's3://bucket/shards/{00000..00099}.tar' --out s3://bucket/manifest --sample 10000 --seed 3",
        "vigc ingest photos --out manifest --exclude used_in_training.json --shard 1/4",
    ),
)
