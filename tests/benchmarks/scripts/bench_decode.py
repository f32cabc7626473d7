"""How many images one core fetches, decodes and shrinks, beside plain Pillow.

python tests/benchmarks/scripts/bench_decode.py [--num 200] [--rounds 5] [--json FILE]

The images are JPEG files of 640 x 480, quality 90, with the detail of a photograph: smooth shapes under noise. Plain
Pillow opens, converts and shrinks them, bicubic, and nothing else; ours also hashes the bytes and the pixels.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.table import Table

from vigc.jobs.bench.common import write_figures
from vigc.jobs.terminal import make_console

SIZE, QUALITY = (640, 480), 90
IMAGE_SIZE = 224  # what InstructBLIP sees
NEEDED_PER_S = 73  # pictures for 8 A100 at 9.1 descriptions a second each (cost model: 40 % of their peak, 5 beams)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--num", type=int, default=200, help="images")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of both, alternating")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    given = parser.parse_args()
    decode(num=given.num, rounds=given.rounds, json_file=given.json)


def decode(*, num: int, rounds: int, json_file: Path | None) -> None:
    """Alternates rounds of both over the same files, in one process and thread."""
    from vigc.platform.images import decode as images

    with tempfile.TemporaryDirectory(prefix="vigc-bench-") as folder:
        paths = draw_photographs(Path(folder), num)
        num_bytes = sum(path.stat().st_size for path in paths) / num
        rates: dict[str, list[float]] = {"vigc": [], "pillow": []}
        ways: dict[str, Callable[[Path], object]] = {
            "vigc": lambda path: images.decode(str(path), IMAGE_SIZE),
            "pillow": _with_pillow,
        }
        for _ in range(rounds):
            for name, way in ways.items():
                began = time.perf_counter()
                for path in paths:
                    way(path)
                rates[name].append(num / (time.perf_counter() - began))
    ours, plain = (statistics.median(rates[name]) for name in ("vigc", "pillow"))
    table = Table("one core", "images/s", box=None, pad_edge=False)
    table.add_row("fetch, decode, shrink, hash", f"{ours:.0f}")
    table.add_row("plain Pillow, no hashes", f"{plain:.0f}")
    console = make_console()
    console.print(table)
    console.print(
        f"{ours / plain:.2f} times plain Pillow, at {num_bytes / 1024:.0f} KB a picture; 8 A100 need {NEEDED_PER_S} "
        f"pictures a second: {NEEDED_PER_S / ours:.2f} cores"
    )
    write_figures(
        json_file,
        {
            "num_images": num,
            "rounds": rounds,
            "bytes_per_image": num_bytes,
            "images_per_s": ours,
            "images_per_s_pillow": plain,
            "ratio": ours / plain,
            "cores_for_8_a100": NEEDED_PER_S / ours,
        },
    )


def draw_photographs(folder: Path, num: int) -> list[Path]:
    import numpy as np
    from PIL import Image

    rng, paths = np.random.default_rng(0), []
    for number in range(num):
        coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(SIZE, Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = (smooth + rng.normal(0, 6, smooth.shape).astype(np.int16)).clip(0, 255).astype(np.uint8)
        paths.append(folder / f"{number:04}.jpg")
        Image.fromarray(noisy).save(paths[-1], quality=QUALITY)
    return paths


def _with_pillow(path: Path) -> bytes:
    from PIL import Image

    with Image.open(io.BytesIO(path.read_bytes())) as image:
        shrunk = image.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return shrunk.tobytes()


if __name__ == "__main__":
    main()
