"""A driver process of its own: python drive.py IMAGES OUT DELAY_S. Says what it does on stdout, one line each."""

from __future__ import annotations

import sys

from datasets import REQUEST
from fake_workers import FakeWorker

from vigc.platform.pipeline import Progress, run
from vigc.platform.sources import open_source
from vigc.platform.store import Store


def report(progress: Progress) -> None:
    print(f"done {progress.done}", flush=True)


if __name__ == "__main__":
    images, out, delay_s = sys.argv[1:]
    store = Store(out)
    pass_ = store.find_pass(REQUEST) or store.create_pass(REQUEST, open_source(images))
    try:
        run(
            pass_,
            worker=FakeWorker,
            worker_args=(float(delay_s),),
            image_size=16,
            num_slots=1,
            on_progress=report,
        )
    except KeyboardInterrupt as stop:
        print("interrupted:", *stop.__notes__)
        sys.exit(130)
    print("imported ray:", "ray" in sys.modules)
