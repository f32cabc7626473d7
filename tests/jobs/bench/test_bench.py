"""The benchmarks of the data plane at toy size: what they measure is what they say."""

from __future__ import annotations

import json
import os
import re
from collections import Counter

import pytest
from vision_server import VisionServer, words_of
from waiting import wait_until

from vigc.jobs.bench.data import (
    REQUEST,
    InstantWorker,
    Ran,
    copy_up_to,
    draw_images,
    rates,
    write_manifest,
)
from vigc.jobs.bench.memory import MB, MemorySample, MemoryWatch, draw, growth
from vigc.model.engines.metrics import PARTS
from vigc.platform.dataset.layout import Block
from vigc.platform.dataset.ledger import commit
from vigc.platform.dataset.merging import Merger
from vigc.platform.dataset.passes import read_block
from vigc.platform.dataset.store import Store
from vigc.platform.dataset.verify import verify
from vigc.platform.images.isolation import Child
from vigc.platform.sources import open_source

ROWS, PER_BLOCK = 100, 8


def test_rows_per_second_leave_out_the_block_before_which_the_clock_was_not_running():
    ran = Ran(0.0, 99.0, [(5.0, 10), (8.0, 30), (10.0, 100)])
    assert rates(ran, ROWS) == {"rows_per_s": (100 - 10) / (10 - 5), "rows_per_s_going": (100 - 30) / (10 - 8)}


def test_a_run_of_two_commits_has_one_rate():
    ran = Ran(0.0, 99.0, [(5.0, 10), (10.0, 100)])
    assert rates(ran, ROWS) == {"rows_per_s": 18.0, "rows_per_s_going": 18.0}


def test_growth_is_counted_from_a_fifth_of_the_run_to_its_last_commit():
    samples = [MemorySample(float(at), (100 + at) * MB, 50 * MB, (90 - at) * MB) for at in range(30)]
    found = growth(samples, 10.0, 20.9, 0.2)
    assert (found["driver_growth_mb"], found["worker_growth_mb"], found["ray_growth_mb"]) == (8.0, 0.0, -8.0)
    assert (found["driver_peak_mb"], found["worker_peak_mb"], found["ray_peak_mb"]) == (129.0, 50.0, 90.0)


class Hoarder:
    """Takes so many megabytes and keeps them."""

    def __init__(self):
        self.kept = []

    def __call__(self, megabytes):
        self.kept.append(bytes(range(256)) * (megabytes * MB // 256))


def test_a_process_that_takes_memory_is_seen_to():
    """Seen even where the block is over before the first second is."""
    child = Child(Hoarder)
    try:
        child.call(1)
        with MemoryWatch(child.pid) as watch:
            child.call(200)
    finally:
        child.stop()
    assert watch.samples[-1].driver - watch.samples[0].driver > 150 * MB
    assert watch.samples == sorted(watch.samples, key=lambda one: one.at)


def test_a_process_is_looked_at_again_and_again_while_the_block_runs(monkeypatch):
    monkeypatch.setattr("vigc.jobs.bench.memory.INTERVAL_S", 0.01)
    with MemoryWatch(os.getpid()) as watch:
        wait_until(lambda: len(watch.samples) >= 4)  # the first is of the beginning


def test_a_process_that_ends_meanwhile_keeps_the_samples_it_has():
    child = Child(Hoarder)
    try:
        child.call(1)
        with MemoryWatch(child.pid) as watch:
            child.stop()
    finally:
        child.stop()
    assert watch.samples
    assert all(one.driver > 0 for one in watch.samples)


def test_the_picture_has_a_line_for_each_series_of_each_run():
    samples = [MemorySample(float(at), at * MB, at * MB, at * MB) for at in range(5)]
    assert len(re.findall("<polyline", draw({"a": samples, "b": samples}))) == 6


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole data set as the benchmark makes it, of shards and blocks so small that there are several."""
    folder = tmp_path_factory.mktemp("finished")
    write_manifest(folder / "manifest.parquet", draw_images(folder), ROWS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vigc.platform.dataset.passes.ROWS_PER_SHARD", 24)
        patch.setattr("vigc.platform.dataset.merging.MIN_BYTES", 1)
        pass_ = Store(folder / "out").create_pass(REQUEST, open_source(str(folder / "manifest.parquet")), PER_BLOCK)
        worker, merger = InstantWorker(), Merger(pass_.folder, pass_.ledger())
        for shard, numbers in pass_.ledger().remaining():
            for block in (Block(shard, number) for number in numbers):
                rows = worker.rows(read_block(pass_.folder, pass_.layout, block))
                merger.add(block, commit(pass_.folder, block, rows))
        merger.finish()
        merger.close()
    return folder / "out"


@pytest.mark.parametrize("share", [10, 50, 90, 99])
def test_a_data_set_cut_back_is_as_a_run_leaves_it(finished, tmp_path, share):
    assert verify(finished).ok
    copy_up_to(finished, tmp_path / "out", share / 100)
    (pass_,) = Store(tmp_path / "out").passes()
    done = share // PER_BLOCK * PER_BLOCK if share < 96 else 96  # whole blocks; the last shard has 4 rows
    assert pass_.num_requested - pass_.remaining() == done
    assert pass_.ledger().finished_shards == set(range(share // 24))
    found = verify(tmp_path / "out")
    assert (found.num_missing, found.num_doubled, found.num_rows) == ((ROWS - done) * 3, 0, done)
    assert [problem for problem in found.problems if "have no row" not in problem] == []


@pytest.mark.slow
def test_bench_data_measures_a_run_and_resumes(vigc, tmp_path):
    json_file, plot = tmp_path / "figures.json", tmp_path / "memory.svg"
    options = ["--rows-per-block", 16, "--out", json_file, "--plot", plot, "--work", tmp_path / "work"]
    done = vigc("bench", "data", "--rows", 64, "--resume-at", 50, *options)
    assert done.code == 0, done.err
    assert "InstantWorker" in done.out
    figures = json.loads(json_file.read_text())
    assert (figures["worker"], figures["rows_per_block"], figures["num_files_64"]) == ("InstantWorker", 16, 7)
    expected = {"create_s", "rows_per_s", "rows_per_s_going", "run_s", "start_s", "mb", "verify_s", "verify_peak_mb"}
    expected |= {f"{who}_{what}_mb" for who in ("driver", "worker", "ray") for what in ("peak", "growth")}
    expected |= {"list_s_at_50", "resume_s_at_50", "resume_s_at_100"}
    assert {f"{name}_64" for name in expected} <= figures.keys()
    assert all(figures[f"{name}_peak_mb_64"] > 20 for name in ("driver", "worker", "ray"))
    assert figures["rows_per_s_64"] * (figures["run_s_64"] - figures["start_s_64"]) > 64 - 16
    assert figures["resume_s_at_100_64"] < figures["resume_s_at_50_64"]
    assert re.search(r"resume to the first new commit, at 50 % +\d+\.\d\d s", done.out)
    assert re.search(r"find that nothing is left to do +\d+\.\d\d s", done.out)
    assert plot.read_text().startswith("<svg")
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.slow
def test_bench_data_without_ray_writes_and_verifies_the_same(vigc_here, tmp_path):
    json_file = tmp_path / "figures.json"
    done = vigc_here("bench", "data", "--rows", 48, "--without-ray", "--rows-per-block", 16, "--out", json_file)
    assert done.code == 0, done.err
    figures = json.loads(json_file.read_text())
    assert figures["num_files_48"] == 6
    assert figures["command"].startswith("vigc bench data --rows 48 --without-ray")
    assert figures["verify_peak_mb_48"] > 20
    assert not any(name.startswith(("resume", "rows_per_s")) for name in figures)


def test_rows_that_are_no_numbers_are_refused(vigc_here):
    assert "--rows: must be a whole number, not '20k'" in vigc_here("bench", "data", "--rows", "20k").err
    assert "--rows: should be greater than or equal to 1" in vigc_here("bench", "data", "--rows", "20,0").err
    assert "--resume-at: should be less than or equal to 99" in vigc_here("bench", "data", "--resume-at", "50,100").err


@pytest.mark.slow
def test_bench_pipeline_compares_the_same_images_on_both_sides(vigc, tmp_path):
    json_file = tmp_path / "figures.json"
    options = ["--slots", 8, "--threads", 1, "--out", json_file]
    done = vigc("bench", "pipeline", "--num", 3, "--rounds", 1, *options)
    assert done.code == 0, done.err
    figures = json.loads(json_file.read_text())
    assert (figures["num_images"], figures["rounds"], figures["slots"]) == (3, 1, 8)
    assert figures["threads_bare"] == figures["threads_pipeline"] == 1
    assert figures["ratio"] == pytest.approx(figures["images_per_s_pipeline"] / figures["images_per_s_bare"])
    assert 0 < figures["occupancy_bare"] <= 1
    assert 0 < figures["occupancy_pipeline"] <= 1


@pytest.mark.slow
def test_bench_engine_has_the_same_conversations_on_all_sides(vigc_here, tmp_path):
    json_file = tmp_path / "figures.json"
    few = ["--num", 4, "--num-greedy", 4, "--num-beams", 2, "--slots", 4]
    done = vigc_here("bench", "engine", *few, "--out", json_file)
    assert done.code == 0, done.err
    assert "faster than greedily" in done.out
    figures = json.loads(json_file.read_text())
    assert (figures["texts_equal"], figures["num_images"], figures["shape"]) == (1.0, 4, "embedded")
    for name, other in (("reference", "reference"), ("greedy_reference", "greedy_reference")):
        ratio = figures["images_per_s"] / figures[f"images_per_s_{other}"]
        assert figures[f"speedup_over_{name}"] == pytest.approx(ratio)
    assert 1 <= figures["tokens_decoded_per_token_kept"] < figures["tokens_decoded_per_token_kept_greedy_reference"]
    assert figures["tokens_decoded_per_token_kept_reference"] > 5
    assert 0 < figures["share_of_peak"] < figures["share_of_roofline"] < 1
    assert 0.5 < sum(figures[f"share_{part}"] for part in PARTS) <= 1


@pytest.mark.slow
def test_a_profile_is_a_table_and_a_trace_of_the_engine_s_thread(vigc_here, tmp_path):
    trace = tmp_path / "trace.json"
    done = vigc_here("bench", "engine", "--num", 8, "--slots", 8, "--profile", trace)
    assert done.code == 0, done.err
    assert "aten::addmm" in done.out or "aten::linear" in done.out
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert "aten::scaled_dot_product_attention" in names


def test_a_shape_that_is_not_known_is_refused(vigc_here):
    assert "there are embedded, frozen, vicuna-7b" in vigc_here("bench", "engine", "--shape", "7b").err


@pytest.mark.slow
def test_bench_endpoint_asks_the_same_on_both_sides(vigc_joined, scenes_dir, tmp_path):
    json_file = tmp_path / "figures.json"
    with VisionServer(latency_s=0.02) as server:
        options = ["--model", server.url, "--num", 6, "--rounds", 1, "--under-way", 2, "--out", json_file]
        done = vigc_joined("bench", "endpoint", scenes_dir, *options)
        assert done.code == 0, done.err
        asked = Counter(words_of(body) for body in server.bodies if body.get("max_tokens") in (250, 1024))
    figures = json.loads(json_file.read_text())
    assert figures["ratio_2"] == pytest.approx(figures["images_per_s_generate_2"] / figures["images_per_s_bare_2"])
    assert set(asked.values()) == {2, 12}  # VIG's prompt and, for each image, its question: by each side once
