"""A driver process of its own: python drive.py IMAGES OUT DELAY_S [RAY_ADDRESS]. Says what it does, a line each."""

from __future__ import annotations

import os
import sys

from datasets import REQUEST
from fake_workers import FakeWorker

from vigc.platform.pipeline import Progress, run
from vigc.platform.records import VigcError
from vigc.platform.sources import open_source
from vigc.platform.store import Store


def report(progress: Progress) -> None:
    print(f"{'stopping' if progress.is_stopping else 'done'} {progress.done}", flush=True)


if __name__ == "__main__":
    images, out, delay_s, *address = sys.argv[1:]
    if address:
        os.environ["RAY_ADDRESS"] = address[0]
    try:
        store = Store(out)
        pass_ = store.find_pass(REQUEST) or store.create_pass(REQUEST, open_source(images))
        run(
            pass_,
            worker=FakeWorker,
            worker_args=(float(delay_s),),
            image_size=16,
            num_slots=1,
            actors=(2, 20) if address else 1,  # 20 would leave no CPU of a small cluster
            on_progress=report,
        )
    except VigcError as error:
        print("refused:", error)
        sys.exit(2)
    except KeyboardInterrupt as stop:
        print("interrupted:", *stop.__notes__)
        sys.exit(130)
    print("imported ray:", "ray" in sys.modules)
