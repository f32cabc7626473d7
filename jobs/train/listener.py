"""What the workers of a training run tell: into the run's folder, to the terminal and, where asked, to MLflow."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vigc.platform.storage import LocalFolder
from vigc.platform.tracking import FAILED, FINISHED, DataUsed, Tracking

if TYPE_CHECKING:
    from vigc.jobs.train.plan import TrainPlan
    from vigc.model.training.objective import Row

OnMetrics = Callable[[dict[str, Any]], None]
OnNote = Callable[[str], None]

METRICS, PREDICTIONS = "metrics.jsonl", "predictions.jsonl"
EXPERIMENT = "vigc train"
THUMBNAIL = 160  # pixels


class Listener:
    """A thread between the workers' queue and whoever wants to know.

    Args:
        samples: what the workers answer at each evaluation.
    """

    def __init__(self, plan: TrainPlan, queue: Any, samples: list[Row], on_metrics: OnMetrics, on_note: OnNote) -> None:
        self.error: str | None = None  # why the workers could not begin, or go on
        self._queue, self._samples, self._on_metrics, self._on_note = queue, samples, on_metrics, on_note
        self._out = plan.out
        self._num_workers, self._most_workers = plan.num_workers, plan.num_workers
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)
        self._tracking = _tracking(plan, on_note) if plan.tracking else None

    def start(self) -> None:
        self._thread.start()

    def stop(self, interrupted: bool = False) -> None:
        self._finished.set()
        self._thread.join(timeout=10)
        if self._tracking is None:
            return
        if lost := self._tracking.close(FAILED if interrupted or self.error is not None else FINISHED):
            self._on_note(f"MLflow never took {lost} messages; {self._out / METRICS} has all metrics.")

    def _run(self) -> None:
        from ray.util.queue import Empty

        with (self._out / METRICS).open("a", encoding="utf-8") as metrics:
            while True:
                try:
                    message = self._queue.get(timeout=0.5)
                except Empty:
                    if self._finished.is_set():
                        return
                    continue
                except Exception:  # noqa: BLE001  the queue's actor ends with the session
                    return
                if "error" in message:
                    self.error = message["error"]
                elif "num_workers" in message:
                    self._tell_size(message["num_workers"], message["after"])
                elif "fault" in message:
                    self._on_note(f"Skipped, image unreadable: {message['fault']}")
                elif "said" in message:
                    self._show(message["update"], message["said"])
                else:
                    metrics.write(json.dumps({"time": time.time(), **message}) + "\n")
                    metrics.flush()
                    self._on_metrics(message)
                    if self._tracking is not None:
                        self._tracking.metrics(message["update"], {k: v for k, v in message.items() if k != "update"})

    def _tell_size(self, num_workers: int, after: int) -> None:
        """Where the number of workers may vary, a new one is news."""
        if num_workers != self._num_workers:
            self._on_note(f"{num_workers} of {self._most_workers} workers train from update {after + 1} on.")
        self._num_workers = num_workers

    def _show(self, update: int, said: list[str]) -> None:
        """What the model answers now, beside what it should."""
        told = [{"prompt": r["prompts"][0], "target": r["targets"][0].strip()} for r in self._samples]
        with (self._out / PREDICTIONS).open("a", encoding="utf-8") as stream:
            for sample, answer in zip(told, said, strict=True):
                stream.write(json.dumps({"update": update, **sample, "said": answer}, ensure_ascii=False) + "\n")
        if self._tracking is not None:
            step = -(-self._samples[0]["pixels"].shape[0] // THUMBNAIL)
            self._tracking.table(
                f"predictions/{update:06d}",
                {
                    "image": [row["pixels"][::step, ::step] for row in self._samples],
                    "prompt": [sample["prompt"] for sample in told],
                    "target": [sample["target"] for sample in told],
                    "said": said,
                },
            )


def _tracking(plan: TrainPlan, on_note: OnNote) -> Tracking:
    assert plan.tracking is not None
    return Tracking(
        plan.tracking,
        experiment=EXPERIMENT,
        name="/".join(Path(plan.out).parts[-2:] if plan.recipe.stage else [plan.out.name]),
        folder=LocalFolder(str(plan.out.absolute())),
        params={
            **plan.request,
            "out": str(plan.out),
            "workers": plan.num_workers,
            "device": plan.hardware.device,
            "base": plan.model.name,
        },
        data=list(_used(plan)),
        description=f"{plan.recipe.about}\n\nTrained weights: `{plan.out / 'weights'}`",
        on_note=on_note,
        parent=plan.parent,
    )


def _used(plan: TrainPlan) -> Iterator[DataUsed]:
    for data, context in ((plan.data, "training"), (plan.validation, "validation")):
        if data is not None:
            found = data.fingerprint()
            yield DataUsed(data.about, str(found.get("sha256") or found), data.described, context)
