"""A driver process of its own, which says what it does:

python driver_process.py IMAGES OUT DELAY_S [RAY_ADDRESS [ACTORS GATE]]
"""

from __future__ import annotations

import os
import sys

from datasets import REQUEST
from fake_workers import FakeWorker

from vigc.jobs.terminal import interrupt_on_every_stop
from vigc.platform.dataset.store import Store
from vigc.platform.pipeline.run import Graph, Progress, run
from vigc.platform.records import VigcError
from vigc.platform.sources import open_source


def report(progress: Progress) -> None:
    print(f"{'stopping' if progress.is_stopping else 'done'} {progress.done}", flush=True)


if __name__ == "__main__":
    interrupt_on_every_stop()
    images, out, delay_s, *rest = sys.argv[1:]
    least, most = 1, 1
    gate = None
    if rest:
        os.environ["RAY_ADDRESS"] = rest[0]
        least, most = 2, 20  # which would leave no CPU of a small cluster
    if rest[1:]:
        least = most = int(rest[1])
        gate = rest[2]
    try:
        store = Store(out)
        pass_ = store.find_pass(REQUEST) or store.create_pass(REQUEST, open_source(images))
        graph = Graph(
            worker=FakeWorker,
            worker_args=(float(delay_s), None, gate),
            image_size=16,
            num_slots=1,
            min_actors=least,
            max_actors=most,
        )
        run(pass_, graph, on_progress=report)
    except VigcError as error:
        print("refused:", error)
        sys.exit(2)
    except KeyboardInterrupt as stop:
        print("interrupted:", *stop.__notes__)
        sys.exit(130)
    print("imported ray:", "ray" in sys.modules)
