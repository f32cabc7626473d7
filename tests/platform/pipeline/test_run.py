from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from datasets import REQUEST, draw
from fake_workers import (
    BrokenDevice,
    DyingWorker,
    FakeWorker,
    ForgetfulWorker,
    RaisingWorker,
    StillbornWorker,
    dying_decode,
    traced_decode,
)
from waiting import WAIT_S

from vigc.platform.dataset.digest import digest
from vigc.platform.dataset.layout import rows_per_block
from vigc.platform.dataset.store import Store
from vigc.platform.dataset.verify import verify
from vigc.platform.pipeline.run import Graph, RunError, run
from vigc.platform.records import ConfigError, ModelError, StoreError
from vigc.platform.sources import open_source

NUM_IMAGES = 40
DRIVER = Path(__file__).parents[2] / "helpers" / "driver_process.py"
ODD_NAMES = ["a b.png", "ü 🐕.png", "quo\"te's.png", "new\nline.png", "100%25.png", "x#1?.png"]


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Forty pictures, some with names that are hard to carry about, one cut short."""
    folder = tmp_path_factory.mktemp("images") / "of # 100%25"
    for seed in range(NUM_IMAGES):
        name = ODD_NAMES[seed] if seed < len(ODD_NAMES) else f"deep/{seed}.jpg"
        draw(folder / name, seed)
    torn = folder / "deep" / "30.jpg"
    torn.write_bytes(torn.read_bytes()[:400])
    return folder


def start(images, out):
    return Store(out).create_pass(REQUEST, open_source(str(images)))


def go(pass_, worker=FakeWorker, worker_args=(), on_progress=None, **settings):
    graph = Graph(worker=worker, worker_args=worker_args, **{"image_size": 16, "num_slots": 4, **settings})
    run(pass_, graph, on_progress=on_progress)


@pytest.fixture(scope="session")
def undisturbed(shared_ray, images, tmp_path_factory):
    """The data set of a run that nothing happened to, in a folder whose own name is hard to carry about."""
    out = tmp_path_factory.mktemp("undisturbed") / "out # 100%25 ü"
    trace = tmp_path_factory.mktemp("trace")
    pass_ = start(images, out)
    seen = []
    go(pass_, worker_args=(0.0, str(trace)), decode=traced_decode, on_progress=seen.append)
    return out, seen, trace


def test_every_image_becomes_one_row_whatever_its_name(undisturbed):
    found = verify(undisturbed[0])
    assert (found.problems, found.num_rows, found.num_failed) == ([], NUM_IMAGES, 1)
    assert set(ODD_NAMES) < {row["image_id"] for row in Store(undisturbed[0]).rows(["image_id"])}


def test_a_truncated_jpeg_becomes_a_failed_row_and_the_run_goes_on(undisturbed):
    (failed,) = (row for row in Store(undisturbed[0]).rows() if row["status"] == "failed")
    assert (failed["image_id"], failed["error"]["kind"], failed["conversations"]) == ("deep/30.jpg", "truncated", [])
    assert len(failed["sha256"]) == 64


def test_progress_only_grows_and_ends_with_everything(undisturbed):
    seen = undisturbed[1]
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)
    assert (seen[0].done, seen[0].images_per_s) == (0, None)
    last = seen[-1]
    kept = sum(any(c["status"] == "kept" for c in row["conversations"]) for row in Store(undisturbed[0]).rows())
    assert (last.done, last.total, last.failed, last.kept, last.seconds_left) == (NUM_IMAGES, NUM_IMAGES, 1, kept, 0)
    assert last.images_per_s > 0


def test_decoding_and_the_worker_run_in_different_processes(undisturbed, images):
    decoders = {path.name.split("-")[1] for path in images.rglob("decode-*")}
    workers = {path.name.split("-")[1] for path in undisturbed[2].glob("worker-*")}
    assert decoders
    assert len(workers) == 1
    assert not decoders & workers


@pytest.mark.slow
def test_two_actors_give_the_same_digest_as_one(undisturbed, images, tmp_path):
    traces = tmp_path / "traces"
    traces.mkdir()
    go(start(images, tmp_path / "out"), worker_args=(0.05, str(traces)), min_actors=2, max_actors=2)
    assert len(list(traces.glob("worker-*"))) == 2
    assert digest(tmp_path / "out") == digest(undisturbed[0])


def test_a_worker_that_dies_once_costs_nothing(undisturbed, images, tmp_path):
    marker = tmp_path / "died"
    go(start(images, tmp_path / "out"), DyingWorker, (["deep/20.jpg"], str(marker)))
    assert marker.exists()
    assert verify(tmp_path / "out").ok
    assert digest(tmp_path / "out") == digest(undisturbed[0])


@pytest.mark.slow
def test_of_100_images_the_3_that_kill_the_worker_fail_and_the_others_are_as_if_nothing_had_been(shared_ray, tmp_path):
    for seed in range(100):
        draw(tmp_path / "images" / f"{seed:03}.png", seed)
    poison = ["010.png", "011.png", "070.png"]
    go(start(tmp_path / "images", tmp_path / "out"), DyingWorker, (poison,), num_slots=16)
    go(start(tmp_path / "images", tmp_path / "calm"), num_slots=16)
    assert verify(tmp_path / "out").problems == []
    rows = {row["image_id"]: row for row in Store(tmp_path / "out").rows()}
    calm = {row["image_id"]: row for row in Store(tmp_path / "calm").rows()}
    assert sorted(name for name, row in rows.items() if row["status"] == "failed") == poison
    assert {rows[name]["error"]["kind"] for name in poison} == {"crashed"}
    assert all("SIGSEGV" in rows[name]["error"]["message"] for name in poison)
    assert all(rows[name] == calm[name] for name in calm if name not in poison)


@pytest.mark.slow
def test_a_worker_that_dies_before_it_has_seen_an_image_blames_none(shared_ray, images, tmp_path):
    pass_ = start(images, tmp_path / "out")
    with pytest.raises(RunError, match=r"died while it was starting \(.*SIGKILL.*lower --slots or --actors"):
        go(pass_, StillbornWorker)
    assert pass_.remaining() == NUM_IMAGES


@pytest.mark.slow
def test_a_worker_that_dies_at_every_image_ends_the_run_instead_of_failing_them_all(shared_ray, images, tmp_path):
    pass_ = start(images, tmp_path / "out")
    with pytest.raises(RunError, match=r"died at 10 images one after the other.*not the images' fault"):
        go(pass_, BrokenDevice)
    assert pass_.remaining() > NUM_IMAGES - 10


@pytest.mark.slow
def test_a_decoding_task_that_always_dies_ends_the_run_and_not_never(shared_ray, images, tmp_path, monkeypatch):
    monkeypatch.setattr("vigc.platform.pipeline.run.MAX_STREAMS_WITHOUT_PROGRESS", 2)
    with pytest.raises(
        RunError, match=r"died again and again.* 0 of 40 images are committed; the same command continues"
    ):
        go(start(images, tmp_path / "out"), decode=dying_decode, max_retries=1)


@pytest.mark.slow
def test_the_workers_own_error_arrives_as_it_was_even_from_its_constructor(shared_ray, images, tmp_path):
    with pytest.raises(ModelError) as caught:
        go(start(images, tmp_path / "out"), RaisingWorker, ("init", "model"))
    assert str(caught.value) == "weights.safetensors: a key is missing. Get the file again."


@pytest.mark.slow
def test_a_disk_that_fills_up_is_one_clear_error(shared_ray, images, tmp_path):
    with pytest.raises(StoreError, match=r"the disk is full\. Free some space and run the same command again"):
        go(start(images, tmp_path / "out"), RaisingWorker, ("call", "disk"))


@pytest.mark.slow
def test_a_bug_in_the_worker_is_named_with_the_place_of_the_logs(shared_ray, images, tmp_path):
    with pytest.raises(RunError, match=r"ValueError: the worker has a bug.*Logs: /"):
        go(start(images, tmp_path / "out"), RaisingWorker, ("call", "bug"))


@pytest.mark.slow
def test_rows_that_the_worker_lost_are_noticed(shared_ray, images, tmp_path):
    with pytest.raises(RunError, match=r"did not give exactly one row for each image.*without one are \['"):
        go(start(images, tmp_path / "out"), ForgetfulWorker)


def test_a_finished_run_starts_no_ray(undisturbed, images):
    words = [sys.executable, DRIVER, images, undisturbed[0], "0"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.stdout.splitlines() == ["done 40", "done 40", "imported ray: False"], done.stderr


def test_what_cannot_work_is_refused_before_ray_starts(images, tmp_path):
    pass_ = start(images, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"actors \(0 to 1\)"):
        go(pass_, min_actors=0)


@pytest.mark.parametrize(("num_images", "rows"), [(1, 1), (7, 1), (200, 12), (10_000, 32), (None, 128)])
def test_blocks_are_small_where_there_is_little_to_do(num_images, rows):
    assert rows_per_block(num_images) == rows
