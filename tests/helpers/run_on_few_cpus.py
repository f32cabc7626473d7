"""Runs on a Ray of few CPUs: python run_on_few_cpus.py NUM_CPUS ACTORS IMAGES OUT. Begins, stops, goes on, and says so.

Then it tries a run with one actor more than fits.
"""

from __future__ import annotations

import _thread
import sys
from dataclasses import replace

from datasets import REQUEST
from fake_workers import FakeWorker
from waiting import wait_until

from vigc.platform.dataset.store import Store
from vigc.platform.pipeline.capacity import grows_by_itself
from vigc.platform.pipeline.ray_session import init_ray
from vigc.platform.pipeline.run import Graph, run
from vigc.platform.records import VigcError
from vigc.platform.sources import open_source


def main(num_cpus: int, actors: int, images: str, out: str) -> None:
    init_ray(address="local", num_cpus=num_cpus, include_dashboard=False, _node_ip_address="127.0.0.1")
    wait_until(lambda: not grows_by_itself(), pause_s=0.2)  # until the cluster has said what it is
    store = Store(out)
    pass_ = store.create_pass(REQUEST, open_source(images))
    graph = Graph(worker=FakeWorker, image_size=16, num_slots=1, min_actors=actors, max_actors=actors)
    try:
        run(
            pass_,
            replace(graph, worker_args=(0.2,)),
            on_progress=lambda now: now.images_per_s and not now.is_stopping and _thread.interrupt_main(),
        )
    except KeyboardInterrupt:
        print("stopped with some done" if 0 < pass_.remaining() < pass_.num_requested else "stopped in vain")
    run(pass_, graph)
    print("went on to the end" if not pass_.remaining() else "left some out")
    refused = Store(f"{out}-refused")
    try:
        more = replace(graph, min_actors=actors + 1, max_actors=actors + 1)
        run(refused.create_pass(REQUEST, open_source(images)), more)
    except VigcError as error:
        print(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
