"""What only shows with many images: memory."""

from __future__ import annotations

import threading
import time

import numpy as np
import psutil
import pytest
from datasets import REQUEST, draw
from fake_workers import FakeWorker
from PIL import Image

from vigc.platform.dataset.store import Store
from vigc.platform.dataset.verify import verify
from vigc.platform.pipeline.run import Graph, run
from vigc.platform.records import ImageRecord
from vigc.platform.sources.base import Records

GIB = 2**30


class Watched:
    """The largest memory that this process and each of its descendants ever had, by command line."""

    def __enter__(self):
        self.peaks, self._over = {}, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _watch(self):
        while not self._over.wait(0.5):
            me = psutil.Process()
            for process in (me, *me.children(recursive=True)):
                try:
                    key, used = (process.pid, " ".join(process.cmdline())[:60]), process.memory_info().rss
                except psutil.Error:
                    continue
                self.peaks[key] = max(self.peaks.get(key, 0), used)


@pytest.mark.soak
def test_ten_thousand_mixed_images_take_less_than_three_gigabytes_in_any_process(shared_ray, tmp_path):
    rng = np.random.default_rng(0)
    kinds = []
    for number in range(40):
        size = [(640, 480), (1600, 1200), (300, 2000), (64, 64)][number % 4]
        suffix = ["jpg", "png", "webp", "gif"][number % 4]
        kinds.append(draw(tmp_path / f"{number}.{suffix}", number, size))
    for number in range(4):
        noise = Image.fromarray(rng.integers(0, 255, (860, 580, 3), dtype=np.uint8))
        path = tmp_path / f"huge{number}.{'png' if number == 3 else 'jpg'}"
        noise.resize((5800, 8620), Image.Resampling.NEAREST).save(path, quality=80)
        kinds.append(path)
    (tmp_path / "broken.jpg").write_bytes(kinds[0].read_bytes()[:500])
    kinds.append(tmp_path / "broken.jpg")
    records = [
        ImageRecord(f"{i:05}", str(kinds[i % 40] if i % 100 else kinds[40 + i // 100 % 5])) for i in range(10_000)
    ]
    pass_ = Store(tmp_path / "out").create_pass(REQUEST, Records(records))
    started = time.monotonic()
    with Watched() as watched:
        run(pass_, Graph(worker=FakeWorker, image_size=224, num_slots=64))
    largest = sorted(watched.peaks.items(), key=lambda peak: -peak[1])[:5]
    print(f"\n10,000 images, 100 of them of 50 megapixels or broken, in {time.monotonic() - started:.0f} s; largest:")
    for (_, command), used in largest:
        print(f"{used / GIB:6.2f} GiB  {command}")
    assert verify(tmp_path / "out").problems == []
    assert largest[0][1] < 3 * GIB
