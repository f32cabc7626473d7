"""What a run costs, and how a budget ends it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from vision_server import VisionServer

from vigc.jobs.generate.cost import RunPrices, read_prices
from vigc.jobs.terminal import BUDGET_SPENT
from vigc.platform.dataset.store import Store
from vigc.platform.dataset.tally import Tally
from vigc.platform.pipeline.progress import Progress
from vigc.platform.planning import TokenPrice
from vigc.platform.records import ConfigError, TokenUsage

IN, OUT = 20.0, 80.0  # a million tokens
NUM = 40


def progress(done, *, under_way=0, seconds_left=100.0):
    tally = Tally(rows=done, usage=TokenUsage(1000 * done, 100 * done))
    return Progress(done, 50, done, 0, 0.5, seconds_left, tally=tally, num_under_way=under_way)


def test_tokens_and_hours_are_both_paid_for_and_so_is_the_rest_of_the_run() -> None:
    prices = RunPrices(per_hour=36.0, tokens=TokenPrice(IN, OUT), budget=None, currency="USD")
    told = prices.told(progress(10), hours=0.5, num_held=2)
    assert told.spent == pytest.approx(10 * 0.028 + 18)
    assert told.to_spend == pytest.approx(40 * 0.028 + 36 * 2 * 100 / 3600)
    assert not prices.is_spent(told)


def test_a_budget_pays_for_what_is_under_way() -> None:
    prices = RunPrices(None, TokenPrice(IN, OUT), budget=0.5, currency="USD")
    assert not prices.is_spent(prices.told(progress(10, under_way=6), 0.0, 1))
    assert prices.is_spent(prices.told(progress(10, under_way=7), 0.0, 1))  # and one more until all know
    assert not prices.is_spent(prices.told(progress(50), 0.0, 1))  # it is done, and a little over


def test_before_the_first_image_no_more_is_begun_than_a_tenth_of_the_budget_pays_for() -> None:
    prices = RunPrices(None, TokenPrice(10.0, 50.0), budget=6.0, currency="USD")
    assert prices.most_images_begun(num_kinds=1) == 10
    assert prices.most_images_begun(num_kinds=100) == 1
    assert RunPrices(1.0, None, budget=6.0, currency="USD").most_images_begun(1) is None


def test_where_a_price_comes_from(tmp_path) -> None:
    about = {"per_hour": None, "token_price": None, "table": None, "budget": None, "is_endpoint": True}
    assert read_prices("gpt-4o-mini", **about).tokens == TokenPrice(0.15, 0.60)
    assert read_prices("my-model", **about).tokens is None
    assert read_prices("gpt-4o-mini", **about | {"token_price": (1.0, 2.0)}).tokens == TokenPrice(1.0, 2.0)
    with pytest.raises(ConfigError, match="--token-price IN,OUT"):
        read_prices("my-model", **about | {"budget": 3.0})
    with pytest.raises(ConfigError, match="give --price"):
        read_prices("embedded", **about | {"is_endpoint": False, "token_price": (1.0, 2.0)})


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(1)
    for number in range(NUM):
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(folder / f"{number:02}.jpg")
    return folder


def test_a_spent_budget_stops_cleanly_and_a_larger_one_goes_on(vigc_joined, photographs, tmp_path):
    out = tmp_path / "data"
    with VisionServer(latency_s=0.25) as server:
        asked = ("generate", photographs, "--out", out, "--kinds", "detail", "--model", server.url)
        asked += ("--token-price", f"{IN},{OUT}", "--concurrency", 1)
        stopped = vigc_joined(*asked, "--budget", 0.12)
        assert stopped.code == BUDGET_SPENT, stopped.err
        assert "The budget of 0.12 USD is spent" in stopped.err
        first = [row["usage"] for row in Store(out).rows()]
        assert 0 < len(first) < NUM
        cost = sum(IN * one["num_prompt"] + OUT * one["num_completion"] for one in first) / 1e6
        assert cost < 0.15  # all images cost about twice as much
        num_requests = len(server.bodies)
        again = vigc_joined(*asked, "--budget", 0.05)
        assert again.code == BUDGET_SPENT
        before = len(server.bodies) - num_requests
        assert before < 20  # it was asked what it can, and nothing about an image

        server.latency_s = 0.0
        done = vigc_joined(*asked, "--budget", 5, "--json")
        assert done.code == 0, done.err
    rows = list(Store(out).rows())
    assert len(rows) == NUM
    told = json.loads(done.out)
    used = [sum(row["usage"][name] for row in rows) for name in ("num_prompt", "num_completion")]
    assert told["usage"] == {"num_prompt": used[0], "num_completion": used[1]}
    assert told["cost"] == pytest.approx((IN * used[0] + OUT * used[1]) / 1e6)
    assert vigc_joined("verify", out).code == 0


def test_a_server_that_counts_nothing_has_no_budget(vigc_joined, photographs, tmp_path):
    with VisionServer(usage=False) as server:
        asked = ("generate", photographs, "--out", tmp_path / "data", "--model", server.url, "--token-price", "1,1")
        refused = vigc_joined(*asked, "--budget", 1)
    assert refused.code == 2
    assert "does not say how many tokens" in refused.err
    assert not (tmp_path / "data" / "passes").exists()
