"""`vigc plan`: from given rates by arithmetic alone, and from a probe of the real pipeline."""

from __future__ import annotations

import pytest
from vision_server import VisionServer

from vigc.jobs.plan.command import gpu_named

GIVEN = ("plan", "--images", 1_800_000, "--images-per-s", 10, "--gpu", "a100-80")


def test_given_rates_need_no_run(vigc_here):
    plan = vigc_here(*GIVEN, "--machine", "p4de.24xlarge,p4d.24xlarge", "--deadline", "24h", "--json").json()
    assert plan["hours_of_one"] == [50, 50]
    (same, other) = plan["shapes"]
    assert (same["num_machines"], same["gpus"], same["gpu_hours"]) == (1, 8, [50, 50])
    assert same["hours"][0] == pytest.approx(50 / 8 + 10 / 60)
    assert same["money"][0] == pytest.approx(same["hours"][0] * 27.45)
    assert other["gpu_hours"][0] > 50  # the same arithmetic, but slower memory
    assert plan["cheapest"] == min(plan["shapes"], key=lambda shape: shape["money"][1])
    assert plan["output_bytes"] == 1_800_000 * 3 * 1300


def test_what_is_said_names_the_cheapest_and_that_prices_are_to_be_checked(vigc_here):
    said = vigc_here(*GIVEN, "--deadline", "12h").out
    assert "GPU-hours  50" in said
    assert "Cheapest within 12h: " in said
    assert "Prices as of 2026-11-26: check them." in said
    assert "p5.48xlarge *" in said
    assert "p4de.24xlarge *" not in said


def test_a_user_s_own_prices_are_used(vigc_here, tmp_path):
    (tmp_path / "own.yaml").write_text(
        "checked: 2026-01-02\ncurrency: EUR\nstartup_minutes: 0\n"
        "gpus: {a100-80: {tflops: 312, tb_per_s: 2}}\n"
        "machines: {ours: {cloud: here, gpu: a100-80, gpus: 4, per_hour: 2}}\n"
    )
    plan = vigc_here(*GIVEN, "--prices", tmp_path / "own.yaml", "--json").json()
    assert (plan["currency"], [shape["money"][0] for shape in plan["shapes"]]) == ("EUR", [25])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["plan"], "Name the command to plan"),
        (["plan", "verify", "data"], "'verify' cannot be planned"),
        (["plan", "--images-per-s", "fast", "--images", "3"], "--images-per-s: 'fast' is no range; give one number"),
        (["plan", "--images-per-s", "0", "--images", "3"], "--images-per-s: '0' is no range"),
        (["plan", "--images-per-s", "3"], "--images is missing"),
        ([*GIVEN, "--deadline", "soon"], "--deadline soon: give a number of minutes"),
        ([*GIVEN, "--machine", "p9"], "--machine p9: the prices know p4d.24xlarge"),
        (["plan", "--images", "3", "--images-per-s", "3", "--gpu", "b900"], "--gpu b900: the prices know a100-40"),
        (["plan", "generate", "/nowhere/at/all", "--out", "data"], "/nowhere/at/all"),
    ],
)
def test_what_cannot_be_planned_is_one_line(arguments, complaint, vigc_here):
    result = vigc_here(*arguments)
    assert result.code == 2
    assert complaint in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("NVIDIA A100-SXM4-80GB, 81920", "a100-80"),
        ("NVIDIA A100-SXM4-40GB, 40960", "a100-40"),
        ("NVIDIA H100 80GB HBM3, 81559", "h100"),
        ("NVIDIA H200, 143771", "h200"),
        ("NVIDIA L40S, 46068", "l40s"),
        ("NVIDIA L4, 23034", "l4"),
        ("NVIDIA GeForce RTX 3060, 12288", None),
        ("", None),
    ],
)
def test_gpus_are_called_as_the_prices_call_them(line, name):
    assert gpu_named(line) == name


def test_a_probe_measures_the_real_pipeline_and_leaves_nothing(vigc_joined, scenes_dir, tmp_path):
    flags = ["--slots", "2", "--kinds", "detail", "--device", "cpu"]
    result = vigc_joined(
        "plan", "--probe-seconds", "4", "--json", "generate", scenes_dir, "--out", tmp_path / "data", *flags
    )
    assert result.code == 0, result.err
    plan = result.json()
    rate = plan["images_per_s"]
    assert 0 < rate["low"] <= rate["middle"] <= rate["high"]
    assert "probed on " in rate["how"]
    assert plan["num_images"] == 12
    assert plan["hours_of_one"][0] == pytest.approx(12 / rate["middle"] / 3600)
    assert 100 * 12 < plan["output_bytes"] < 100_000 * 12
    assert (plan["gpu"], plan["shapes"]) == (None, [])  # the rate is of a CPU
    assert not (tmp_path / "data").exists()


def test_a_plan_for_an_endpoint_says_what_its_tokens_will_cost(vigc_joined, scenes_dir, tmp_path):
    with VisionServer(latency_s=0.05) as server:
        generate = ["generate", scenes_dir, "--out", tmp_path / "data", "--kinds", "detail", "--model", server.url]
        generate += ["--token-price", "2,8", "--concurrency", 2]
        result = vigc_joined("plan", "--probe-seconds", 2, "--json", "--images", 1000, *generate)
    assert result.code == 0, result.err
    plan = result.json()
    read, written = plan["tokens"]
    assert 1000 * 200 < read < 1000 * 400  # two requests with an image of 100 tokens
    assert plan["tokens_cost"] == pytest.approx((2 * read + 8 * written) / 1e6)
    assert (plan["endpoint"], plan["gpu"], plan["shapes"]) == (server.url, None, [])
